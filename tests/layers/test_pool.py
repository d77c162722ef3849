import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxvideo.layers import avg_pool, explicit_padding, max_pool

CASES = [
    ((1, 3, 3), (1, 2, 2), "SAME"),
    ((3, 3, 3), (2, 2, 2), "SAME"),
    ((3, 3, 3), (1, 1, 1), 1),
    ((2, 2, 2), (2, 2, 2), "CEIL"),
    ((2, 3, 1), (1, 2, 3), ((0, 1), (1, 1), (0, 0))),
]


def reference(x, kernel, strides, padding):
    pads = ((0, 0), *explicit_padding(padding, x.shape[1:4], kernel, strides), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), pads)


@pytest.mark.parametrize(("kernel", "strides", "padding"), CASES)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_and_its_gradient(kernel, strides, padding, ties):
    """With ties, as after a ReLU, the first maximum in row-major order gets the gradient."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6, 7, 3))
    x = jnp.asarray(np.maximum(np.round(x), 0) if ties else x, jnp.float32)
    y, pull = jax.vjp(lambda x: max_pool(x, kernel, strides, padding), x)
    expected, pull_expected = jax.vjp(lambda x: reference(x, kernel, strides, padding), x)
    np.testing.assert_array_equal(y, expected)
    seed = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    np.testing.assert_allclose(pull(seed)[0], pull_expected(seed)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_tpu_uses_whole_windows(platform):
    """The program is lowered for each platform and not run."""
    pool = jax.jit(jax.grad(lambda x: max_pool(x, (1, 3, 3), (1, 2, 2), "SAME").sum()))
    text = pool.trace(jnp.ones((1, 2, 8, 8, 3))).lower(lowering_platforms=(platform,)).as_text()
    assert ("select_and_scatter" in text) == (platform == "tpu")


def test_caffe_ceil_mode_on_a_ramp():
    ramp = jnp.arange(7.0).reshape(1, 1, 1, 7, 1)
    ceil = max_pool(ramp, (1, 1, 2), (1, 1, 2), "CEIL").ravel()
    symmetric = max_pool(ramp, (1, 1, 2), (1, 1, 2), (0, 0, 1)).ravel()
    floor = max_pool(ramp, (1, 1, 2), (1, 1, 2)).ravel()
    assert ceil.tolist() == [1, 3, 5, 6]
    assert symmetric.tolist() == [0, 2, 4, 6]
    assert floor.tolist() == [1, 3, 5]


def test_negative_values_beat_padding_and_nan_is_kept():
    x = jnp.full((1, 1, 1, 3, 1), -5.0)
    assert (max_pool(x, (1, 1, 3), (1, 1, 1), (0, 0, 1)) == -5).all()
    x = x.at[0, 0, 0, 1, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x, (1, 1, 3), (1, 1, 1), (0, 0, 1))).all()


def test_avg_pool():
    x = jnp.arange(2 * 3 * 4 * 4 * 1, dtype=jnp.float32).reshape(2, 3, 4, 4, 1)
    y = avg_pool(x, (2, 4, 4), (1, 1, 1))
    assert y.shape == (2, 2, 1, 1, 1)
    np.testing.assert_allclose(y[0, 1, 0, 0, 0], x[0, 1:3].mean(), rtol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [((1, 3, 3), (1, 2, 2), 1), ((3, 3, 3), (1, 1, 1), 1), ((2, 2, 2), (2, 2, 2), 0)],
)
def test_max_pool_equals_torch(kernel, strides, padding):
    torch = pytest.importorskip("torch")
    padding = tuple(padding if k > 1 else 0 for k in kernel)
    rng = np.random.default_rng(0)
    x = np.maximum(np.round(rng.normal(size=(2, 5, 6, 7, 3))), 0).astype(np.float32)  # ties
    theirs = torch.tensor(x.transpose(0, 4, 1, 2, 3), requires_grad=True)
    result = torch.nn.functional.max_pool3d(theirs, kernel, strides, padding)
    seed = rng.normal(size=result.shape).astype(np.float32)
    result.backward(torch.tensor(seed))
    y, pull = jax.vjp(lambda x: max_pool(x, kernel, strides, padding), jnp.asarray(x))
    np.testing.assert_array_equal(y, result.detach().numpy().transpose(0, 2, 3, 4, 1))
    dx = pull(jnp.asarray(seed.transpose(0, 2, 3, 4, 1)))[0]
    np.testing.assert_allclose(dx, theirs.grad.numpy().transpose(0, 2, 3, 4, 1), atol=1e-6)
