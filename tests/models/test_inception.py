"""I3D, S3D, S3D-G and their forms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.models.inception import I3D, VARIANTS
from jaxvideo.models.summary import summarize
from jaxvideo.types import ConfigError
from jaxvideo.weights import tree
from tests.models.test_zoo import facts


def test_i3d_endpoints():
    assert facts("i3d_rgb").summary.endpoints == {
        "conv_1a": (32, 112, 112, 64),
        "pool_2a": (32, 56, 56, 64),
        "conv_2b": (32, 56, 56, 64),
        "conv_2c": (32, 56, 56, 192),
        "pool_3a": (32, 28, 28, 192),
        "mixed_3b": (32, 28, 28, 256),
        "mixed_3c": (32, 28, 28, 480),
        "pool_4a": (16, 14, 14, 480),
        "mixed_4b": (16, 14, 14, 512),
        "mixed_4c": (16, 14, 14, 512),
        "mixed_4d": (16, 14, 14, 512),
        "mixed_4e": (16, 14, 14, 528),
        "mixed_4f": (16, 14, 14, 832),
        "pool_5a": (8, 7, 7, 832),
        "mixed_5b": (8, 7, 7, 832),
        "mixed_5c": (8, 7, 7, 1024),
        "avg_pool": (7, 1, 1, 1024),
        "pre_logits": (7, 1, 1, 1024),
        "logits": (400,),
    }


def test_s3dg_in_three_forms():
    """Gates and their biases in the authors' code and in the paper."""

    def gates(**arguments):
        variables = jax.eval_shape(
            lambda: I3D(**arguments).init(
                jax.random.key(0), jnp.zeros((1, 16, 32, 32, 3)), train=False
            )
        )
        names = tree.flatten(variables["params"])
        return [n for n in names if "gate" in n and n.endswith("kernel")], [
            n for n in names if "gate" in n and n.endswith("bias")
        ]

    kernels, biases = gates(**VARIANTS["s3dg"])
    assert (len(kernels), len(biases)) == (37, 0)
    kernels, biases = gates(**VARIANTS["s3dg_paper"])
    assert (len(kernels), len(biases)) == (19, 19)
    assert "mixed_3b/branch_1/gate_b/kernel" in kernels


@pytest.mark.full
def test_slim_starts_as_its_2d_net():
    """Temporal kernels are initialized as the identity: a block equals its spatial half."""
    model = I3D(**VARIANTS["s3d_slim"], width=0.125)
    clip = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 32, 32, 3)), jnp.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), clip, train=False))()
    kernel = variables["params"]["conv_2c"]["temporal"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 0, 0], np.eye(24))
    assert not kernel[::2].any()
    spatial = I3D(**VARIANTS["s3d_slim"], width=0.125).clone(temporal=("1a",))
    flat = tree.flatten(variables)
    flat = {
        n.replace("/spatial/", "/").replace("/bn/", "/"): a
        for n, a in flat.items()
        if "/temporal/" not in n
    }
    names = {re.sub(r"conv_(2c|b)/(bias|mean|var)$", r"bn_\1/\2", n): a for n, a in flat.items()}
    ours = model.apply(variables, clip, train=False)[1]
    flats = spatial.apply(tree.unflatten(names), clip, train=False)[1]
    np.testing.assert_allclose(ours["mixed_5c"], flats["mixed_5c"], rtol=1e-4, atol=1e-6)


def test_unknown_layers_of_inception():
    with pytest.raises(ConfigError, match=r"temporal=\('2b',\): allowed are"):
        summarize("i3d_rgb", frames=4, crop=32, temporal=("2b",))
    with pytest.raises(ConfigError, match="gates='some'"):
        summarize("i3d_rgb", frames=4, crop=32, gates="some")


@pytest.mark.parametrize(("frames", "positions"), [(16, 1), (79, 9), (100, 12), (250, 31)])
def test_i3d_positions_in_time(frames, positions):
    assert summarize("i3d_rgb", frames=frames).endpoints["avg_pool"][0] == positions
