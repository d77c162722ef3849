"""Inference of every family: fused operations and `fold` against separate operations."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.layers.blocks import conv_norm
from jaxvideo.layers.conv import ACTIVATIONS, FOLDED
from jaxvideo.models import backbones2d, inception
from jaxvideo.models.c3d import C3D
from jaxvideo.models.csn import CSN
from jaxvideo.models.densenet3d import DenseNet3D
from jaxvideo.models.folding import fold
from jaxvideo.models.hidden_two_stream import MOTIONNETS, MotionNet
from jaxvideo.models.inception_two_stream import FusedTwoStreamInception
from jaxvideo.models.p3d import P3D
from jaxvideo.models.recurrent import ConvNetLSTM
from jaxvideo.models.resnet3d import FACTORIZED, FULL, ResNet3D
from jaxvideo.models.slowfast import SlowFast
from jaxvideo.models.transfer import DenseNet2D
from jaxvideo.models.tsn import TSN
from jaxvideo.models.two_stream import TwoStreamFusion
from jaxvideo.models.x3d import X3D
from jaxvideo.weights import tree
from tests.marks import some
from tests.models.test_backbones2d import random_variables, relative_error

NARROW = {"num_classes": 3, "width": 1 / 8}
FRACTION = {"num_classes": 3, "width": 0.05}
PREACTIVATION = {"preactivation": True, "shortcut": "A", "hara": True}

# Name: network and clip. Together they contain every kind of block.
NETWORKS = {
    "r2plus1d": (ResNet3D((FACTORIZED,) * 3, (2, 1), **NARROW), (8, 32, 32, 3)),
    "preact_resnet": (
        ResNet3D((FULL, FULL, FACTORIZED), (2, 1), 4, **PREACTIVATION, **NARROW),
        (8, 32, 32, 3),
    ),
    "s3dg": (inception.I3D(**inception.VARIANTS["s3dg"], **FRACTION), (8, 32, 32, 3)),
    "slowfast": (SlowFast((1, 1, 1, 1), non_local=(("res2", (0,)),), **NARROW), (8, 32, 32, 3)),
    "x3d": (X3D(widen=1.0, depth=1.0, num_classes=3, head_features=8), (4, 32, 32, 3)),
    "ip_csn": (CSN((2, 1), preserved=True, **NARROW), (8, 32, 32, 3)),
    "p3d": (P3D((3, 1), **NARROW), (8, 32, 32, 3)),
    "p3d_port": (P3D((3,), form="port", **NARROW), (8, 32, 32, 3)),
    "t3d": (DenseNet3D((2, 1), (3,), **NARROW), (8, 32, 32, 3)),
    "densenet2d": (DenseNet2D((2, 1), width=1 / 8), (2, 32, 32, 3)),
    "c3d": (C3D(num_classes=3, width=1 / 16), (8, 32, 32, 3)),
    "c3d_bn": (C3D(num_classes=3, width=1 / 16, norm="all"), (8, 32, 32, 3)),
    "bn_inception": (TSN(**FRACTION), (2, 32, 32, 3)),
    "resnet2d": (backbones2d.ResNet2D((2, 1), width=0.1), (2, 32, 32, 3)),
    "fusion": (TwoStreamFusion(fusion="conv3d", snippet=2, **FRACTION), (4, 48, 48, 5)),
    "fused_inception": (FusedTwoStreamInception(snippet=2, **FRACTION), (4, 32, 32, 5)),
    "motionnet": (MotionNet(**MOTIONNETS["tiny_motionnet"], width=1 / 16), (3, 32, 32, 3)),
    "convnet_lstm": (ConvNetLSTM(**FRACTION), (3, 32, 32, 3)),
}

# One network per kind of block.
SOME = ["r2plus1d", "preact_resnet", "s3dg", "slowfast", "x3d", "c3d_bn"]


def by_hand(conv, norm, x, *, train, activation="", residual=None):
    """`conv_norm` as separate operations, for inference too."""
    x = conv(x, inference=not train)
    if norm is not None:
        x = norm(x, train=train)
    if residual is not None:
        x = x + residual
    return ACTIVATIONS[activation](x)


@pytest.fixture(autouse=True)
def _shallow(monkeypatch):
    """Removes most Inception blocks, whose compilation takes most of the time."""
    rows = {name: backbones2d.INCEPTION[name] for name in ("3a", "3c")}
    monkeypatch.setattr(backbones2d, "INCEPTION", rows)
    monkeypatch.setattr(inception, "TRUNK", inception.TRUNK[:6])


@functools.cache
def network(name):
    model, shape = NETWORKS[name]
    model = model.clone(lowering="direct")
    clip = np.random.default_rng(1).standard_normal((2, *shape), np.float32)
    return model, random_variables(model, shape), clip


def inferred(model, variables, clip):
    """Returns all outputs by name."""
    infer = jax.jit(lambda variables, clip: model.apply(variables, clip, train=False))
    output, endpoints = infer(variables, clip)
    return {"output": output, **endpoints}


def assert_close(found, expected, tolerance):
    assert list(found) == list(expected)
    errors = {
        name: relative_error(np.float32(found[name]), np.float32(expected[name])) for name in found
    }
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("name", some(NETWORKS, SOME))
def test_inference_equals_the_separate_operations(name, monkeypatch):
    model, variables, clip = network(name)
    found = inferred(model, variables, clip)
    for module in list(sys.modules.values()):
        inside = module.__name__.startswith("jaxvideo.")
        if inside and getattr(module, "conv_norm", None) is conv_norm:
            monkeypatch.setattr(module, "conv_norm", by_hand)
    assert_close(found, inferred(model, variables, clip), 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_is_folded(name):
    model, variables, clip = network(name)
    model = model.clone(dtype=jnp.bfloat16)
    folded = jax.eval_shape(lambda given: fold(model, given, clip.shape[1:]), variables)[FOLDED]
    kernels = {n: leaf for n, leaf in tree.flatten(folded).items() if n.endswith("kernel")}
    convolutions = {
        name
        for name, leaf in tree.flatten(variables["params"]).items()
        # Transposed convolutions are not folded.
        if leaf.ndim == 5 and "deconv" not in name and "upsample" not in name
    }
    assert set(kernels) == convolutions
    # I3D's head is computed in f32, also in a bf16 network.
    assert all(leaf.dtype == jnp.bfloat16 for n, leaf in kernels.items() if n != "logits/kernel")


@pytest.mark.parametrize("name", ["s3dg", "x3d", "c3d"])
def test_folded_weights_give_the_same_result(name):
    model, variables, clip = network(name)
    given = {n: leaf.copy() for n, leaf in tree.flatten(variables).items()}
    folded = fold(model, variables, clip.shape[1:])
    assert_close(inferred(model, folded, clip), inferred(model, variables, clip), 1e-5)

    for n, leaf in given.items():
        np.testing.assert_array_equal(tree.flatten(variables)[n], leaf)
        assert tree.flatten(folded)[n] is tree.flatten(variables)[n]
    again = tree.flatten(fold(model, folded, clip.shape[1:]))
    assert list(again) == list(tree.flatten(folded))
    for n, leaf in tree.flatten(folded).items():
        np.testing.assert_array_equal(again[n], leaf)


def test_folded_weights_of_a_bf16_network():
    model, variables, clip = network("preact_resnet")
    small = model.clone(dtype=jnp.bfloat16)
    found = inferred(small, fold(small, variables, clip.shape[1:]), clip)
    assert_close(found, inferred(model, variables, clip), 0.05)
