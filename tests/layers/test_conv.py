"""`conv3d` and `Conv3D`: transformations, padding, platforms, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.layers import Conv3D, conv3d, explicit_padding
from jaxvideo.types import ConfigError, Lowering


def operands(kernel, size, channels=4, features=6, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), dtype)
    w = jnp.asarray(rng.normal(size=(*kernel, channels, features)), dtype)
    return x, w


def test_groups_match_a_loop():
    x, _ = operands((3, 3, 3), (3, 4, 4))
    w = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3, 3, 2, 6)), jnp.float32)
    y = conv3d(x, w, padding=1, groups=2)
    halves = [
        conv3d(x[..., 2 * g : 2 * g + 2], w[..., 3 * g : 3 * g + 3], padding=1) for g in (0, 1)
    ]
    np.testing.assert_allclose(y, jnp.concatenate(halves, -1), rtol=1e-4, atol=1e-4)


def direct(x, w, groups=1):
    return conv3d(x, w, padding=1, groups=groups, lowering=Lowering.DIRECT)


def auto(x, w, groups=1):
    return conv3d(x, w, padding=1, groups=groups)


def close(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("groups", [1, 4])
def test_transformations_equal_those_of_direct(groups):
    x, w = operands((3, 3, 3), (3, 4, 4), features=8)
    w = w[:, :, :, : 4 // groups]

    def loss(conv):
        return lambda x, w: jnp.sin(conv(x, w, groups)).sum()

    def all_of(conv):
        tangents = jnp.cos(x), jnp.cos(w)
        gradient = jax.grad(loss(conv), argnums=(0, 1))
        return {
            "value": conv(x, w, groups),
            "jvp": jax.jvp(lambda x, w: conv(x, w, groups), (x, w), tangents),
            "grad": gradient(x, w),
            "hessian-vector product": jax.jvp(gradient, (x, w), tangents),
            "gradient of a gradient": jax.grad(
                lambda x, w: sum(jnp.sin(g).sum() for g in gradient(x, w)), argnums=(0, 1)
            )(x, w),
            "remat": jax.grad(jax.checkpoint(loss(conv)))(x, w),
        }

    results, expected = all_of(auto), all_of(direct)
    for name in expected:
        close(results[name], expected[name])


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, None), (4, 1)])
def test_vmap_of_value_and_gradients(axes):
    x, w = operands((3, 3, 3), (3, 4, 4))
    xs = x if axes[0] is None else jnp.stack([x, 2 * x], axes[0])
    ws = w if axes[1] is None else jnp.stack([w, jnp.cos(w)], axes[1])

    def value_and_gradients(x, w):
        y = auto(x, w)
        return y, jax.grad(lambda x, w: jnp.sin(auto(x, w)).sum(), argnums=(0, 1))(x, w)

    mapped = jax.vmap(value_and_gradients, axes)(xs, ws)
    for k in range(2):
        one = x if axes[0] is None else jnp.take(xs, k, axes[0])
        other = w if axes[1] is None else jnp.take(ws, k, axes[1])
        close(jax.tree.map(lambda leaf, k=k: leaf[k], mapped), value_and_gradients(one, other))


def test_one_program_serves_every_platform():
    x, w = operands((3, 3, 3), (3, 4, 4), channels=3)
    gradient = jax.jit(jax.grad(lambda w: (conv3d(x, w, padding=1) ** 2).sum()))
    exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(w)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    close(exported.call(w), gradient(w))


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


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": 3}, "groups=3"),
        ({"padding": "same"}, "'SAME'"),
        ({"padding": 0, "kernel": (5, 3, 3)}, "smaller than the kernel"),
        ({"lowering": Lowering.FOLD_TIME}, "time_to_channels"),
        ({"lowering": "fast"}, "allowed are .*'direct'"),
    ],
)
def test_bad_arguments(change, text):
    arguments = {"kernel": (3, 3, 3), "padding": 1, "groups": 1, "lowering": Lowering.AUTO}
    arguments.update(change)
    x, w = operands(arguments.pop("kernel"), (3, 4, 4))
    with pytest.raises(ConfigError, match=text):
        conv3d(x, w, **arguments)


def test_mixed_dtypes_are_an_error():
    x, w = operands((3, 3, 3), (3, 4, 4))
    with pytest.raises(ConfigError, match=r"float32 and w bfloat16"):
        conv3d(x, w.astype(jnp.bfloat16))


def test_module_parameters():
    module = Conv3D(6, (3, 1, 1), padding=(1, 0, 0), groups=2, use_bias=True, dtype=jnp.bfloat16)
    x = jnp.ones((1, 3, 2, 2, 4))
    variables = module.init(jax.random.key(0), x)
    shapes = jax.tree.map(lambda p: (p.shape, p.dtype.name), variables["params"])
    assert shapes == {"kernel": ((3, 1, 1, 2, 6), "float32"), "bias": ((6,), "float32")}
    assert module.apply(variables, x).dtype == jnp.bfloat16
