import numpy as np
import pytest

from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import tree

TREE = {"conv1": {"kernel": np.zeros((1, 2)), "bn": {"scale": np.zeros(2)}}, "fc": {"bias": 1}}


def test_flatten_and_back():
    flat = tree.flatten(TREE)
    assert list(flat) == ["conv1/kernel", "conv1/bn/scale", "fc/bias"]
    assert tree.flatten(tree.unflatten(flat)) == flat


def test_matching():
    names = list(tree.flatten(TREE))
    assert tree.matching(names, ["conv1/*"], "x") == {"conv1/kernel", "conv1/bn/scale"}
    with pytest.raises(ConfigError, match=r"optim.frozen: the pattern 'conv2/\*' matches no"):
        tree.matching(names, ["conv2/*"], "optim.frozen")


def test_diff_names_every_side():
    one = {"a": np.zeros(2), "b": np.zeros(3)}
    other = {"b": np.zeros(4), "c": np.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        tree.check_same(one, other, "file.npz")
    text = str(caught.value)
    assert "missing   a (2,)" in text
    assert "unknown   c (1,)" in text
    assert "b (4,), the model has (3,)" in text
