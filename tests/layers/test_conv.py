"""Every lowering equals DIRECT: value, input gradient, weight gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.layers import Conv3D, conv3d, explicit_padding, resolve
from jaxvideo.layers.conv import _blocked_weight_gradient, _plain_conv2d
from jaxvideo.types import ConfigError, Lowering

# Kernel, strides, padding, input size: odd and even sizes, asymmetric pads, short clips.
CASES = [
    ((1, 3, 3), (1, 1, 1), (0, 1, 1), (3, 6, 5)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1), (2, 7, 8)),
    ((1, 3, 3), (2, 2, 1), ((1, 0), (0, 2), (2, 1)), (5, 6, 7)),
    ((1, 7, 7), (1, 2, 2), (0, 3, 3), (2, 8, 9)),
    ((3, 1, 1), (1, 1, 1), (1, 0, 0), (4, 3, 5)),
    ((3, 1, 1), (2, 1, 1), (1, 0, 0), (5, 4, 3)),
    ((3, 1, 1), (2, 2, 2), ((0, 1), (0, 0), (1, 0)), (6, 5, 4)),
    ((3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 3, 3)),  # T shorter than the kernel
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (4, 5, 6)),
    ((3, 3, 3), (2, 2, 2), "SAME", (5, 6, 7)),
    ((3, 7, 7), (1, 2, 2), (1, 3, 3), (3, 10, 9)),
    ((2, 3, 2), (1, 1, 2), ((1, 0), (1, 1), (0, 1)), (4, 5, 6)),
    ((1, 1, 1), (1, 1, 1), 0, (3, 4, 5)),
    ((1, 1, 1), (2, 2, 2), 0, (4, 5, 6)),
    ((1, 1, 1), (1, 2, 1), ((1, 1), (0, 1), (0, 0)), (2, 4, 3)),
]


def fits(lowering: Lowering, kernel) -> bool:
    t, h, w = kernel
    return {
        Lowering.FOLD_TIME: t == 1,
        Lowering.FOLD_SPACE: h == w == 1,
        Lowering.MATMUL: t == h == w == 1,
    }.get(lowering, True)


def pairs():
    for case, lowering in itertools.product(CASES, Lowering):
        if lowering is not Lowering.DIRECT and fits(lowering, case[0]):
            yield pytest.param(*case, lowering, id=f"{case[0]}-{case[1]}-{lowering.name}")


def operands(kernel, size, channels=4, features=6, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), dtype)
    w = jnp.asarray(rng.normal(size=(*kernel, channels, features)), dtype)
    return x, w


def value_and_gradients(x, w, strides, padding, lowering, groups=1):
    y, pull = jax.vjp(lambda x, w: conv3d(x, w, strides, padding, groups, lowering), x, w)
    seed = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return (y, *pull(seed))


@pytest.mark.parametrize(("kernel", "strides", "padding", "size", "lowering"), list(pairs()))
def test_lowering_equals_direct(kernel, strides, padding, size, lowering):
    x, w = operands(kernel, size)
    direct = value_and_gradients(x, w, strides, padding, Lowering.DIRECT)
    other = value_and_gradients(x, w, strides, padding, lowering)
    for name, a, b in zip(("value", "dx", "dw"), direct, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("lowering", [Lowering.AUTO, Lowering.TIME_TO_CHANNELS])
def test_bfloat16(lowering):
    x, w = operands((3, 3, 3), (4, 6, 6), dtype=jnp.bfloat16)
    exact = value_and_gradients(*operands((3, 3, 3), (4, 6, 6)), (1, 1, 1), 1, Lowering.DIRECT)
    for a, b in zip(exact, value_and_gradients(x, w, (1, 1, 1), 1, lowering), strict=True):
        assert b.dtype == jnp.bfloat16
        # Inputs, products and results are rounded to 8 bits: 2^-8 of the largest value.
        error = np.abs(np.asarray(b, np.float32) - np.asarray(a)).max()
        assert error < 2**-6 * np.abs(a).max()


def test_groups_use_direct_and_match_a_loop():
    x, _ = operands((3, 3, 3), (3, 4, 4))
    w = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3, 3, 2, 6)), jnp.float32)
    y = conv3d(x, w, padding=1, groups=2)
    halves = [
        conv3d(x[..., 2 * g : 2 * g + 2], w[..., 3 * g : 3 * g + 3], padding=1) for g in (0, 1)
    ]
    np.testing.assert_allclose(y, jnp.concatenate(halves, -1), rtol=1e-4, atol=1e-4)


def test_vmap_of_gradient():
    x, w = operands((3, 3, 3), (3, 4, 4))
    xs = jnp.stack([x, 2 * x])

    def loss(x, w):
        return (conv3d(x, w, padding=1) ** 2).sum()

    mapped = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None))(xs, w)
    for k in range(2):
        single = jax.grad(loss, argnums=(0, 1))(xs[k], w)
        for a, b in zip(single, mapped, strict=True):
            np.testing.assert_allclose(b[k], a, rtol=1e-3, atol=1e-2)


def test_one_program_serves_every_platform():
    x, w = operands((3, 3, 3), (3, 4, 4), channels=3)
    gradient = jax.jit(jax.grad(lambda w: (conv3d(x, w, padding=1) ** 2).sum()))
    exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(w)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    np.testing.assert_allclose(exported.call(w), gradient(w), rtol=1e-5)


def test_blocked_weight_gradient_of_several_blocks():
    """Big enough for more than one block of images, which the small cases above are not."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(24, 40, 40, 8)), jnp.float32)
    g = jnp.asarray(rng.normal(size=(24, 20, 20, 12)), jnp.float32)
    shape, strides, pads = (3, 3, 8, 12), (2, 2), ((1, 1), (1, 1))
    blocked = _blocked_weight_gradient(x, g, shape, strides, pads)
    plain = jax.vjp(lambda w: _plain_conv2d(x, w, strides, pads), jnp.zeros(shape))[1](g)[0]
    np.testing.assert_allclose(blocked, plain, rtol=1e-3, atol=2e-2)


@pytest.mark.fast
def test_resolve_is_a_table():
    assert resolve("cpu", (1, 3, 3), (1, 1, 1), 1, 64) is Lowering.FOLD_TIME
    assert resolve("cpu", (3, 1, 1), (1, 1, 1), 1, 64) is Lowering.FOLD_SPACE
    assert resolve("cpu", (3, 3, 3), (1, 1, 1), 1, 64) is Lowering.TIME_TO_CHANNELS
    assert resolve("tpu", (3, 7, 7), (1, 2, 2), 1, 3) is Lowering.TIME_TO_CHANNELS
    assert resolve("tpu", (3, 3, 3), (1, 1, 1), 1, 64) is Lowering.DIRECT
    assert resolve("cuda", (3, 3, 3), (1, 1, 1), 1, 64) is Lowering.DIRECT
    assert resolve("cpu", (3, 3, 3), (1, 1, 1), 64, 64) is Lowering.DIRECT


@pytest.mark.fast
@pytest.mark.parametrize(
    ("padding", "size", "k", "stride", "expected"),
    [
        ("SAME", 112, 7, 2, (2, 3)),
        (3, 112, 7, 2, (3, 3)),  # torch
        ("SAME", 79, 7, 2, (3, 3)),
        ("SAME", 28, 3, 2, (0, 1)),
        ("SAME", 7, 2, 2, (0, 1)),
        ("CEIL", 7, 2, 2, (0, 1)),
        ("CEIL", 8, 2, 2, (0, 0)),
        ("CEIL", 1, 2, 2, (0, 1)),
        ("VALID", 9, 3, 2, (0, 0)),
        ([(1, 2)], 9, 3, 2, (1, 2)),
    ],
)
def test_padding_conventions(padding, size, k, stride, expected):
    assert explicit_padding(padding, [size], [k], [stride]) == (expected,)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": 3}, "groups=3"),
        ({"padding": "same"}, "'SAME'"),
        ({"padding": 0, "kernel": (5, 3, 3)}, "smaller than the kernel"),
        ({"lowering": Lowering.FOLD_TIME}, "TIME_TO_CHANNELS"),
    ],
)
def test_bad_arguments(change, text):
    arguments = {"kernel": (3, 3, 3), "padding": 1, "groups": 1, "lowering": Lowering.AUTO}
    arguments.update(change)
    x, w = operands(arguments.pop("kernel"), (3, 4, 4))
    with pytest.raises(ConfigError, match=text):
        conv3d(x, w, **arguments)


@pytest.mark.fast
def test_module_parameters():
    module = Conv3D(6, (3, 1, 1), padding=(1, 0, 0), groups=2, use_bias=True, dtype=jnp.bfloat16)
    x = jnp.ones((1, 3, 2, 2, 4))
    variables = module.init(jax.random.key(0), x)
    shapes = jax.tree.map(lambda p: (p.shape, p.dtype.name), variables["params"])
    assert shapes == {"kernel": ((3, 1, 1, 2, 6), "float32"), "bias": ((6,), "float32")}
    assert module.apply(variables, x).dtype == jnp.bfloat16
