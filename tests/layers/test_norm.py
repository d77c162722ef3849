import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo.layers import BatchNorm
from jaxvideo.types import ConfigError


def data(mean=0.0, n=8, channels=5):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, 3, 4, 4, channels)) * 2 + mean).astype(np.float32)


def run(module, x, steps=1):
    variables = module.init(jax.random.key(0), x, train=False)
    y = None
    for _ in range(steps):
        y, stats = module.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **stats}
    return y, variables


@pytest.mark.parametrize("unbiased", [True, False])
def test_train_and_running_statistics(unbiased):
    x = data(mean=3.0)
    y, variables = run(BatchNorm(momentum=0.75, unbiased=unbiased), x)
    axes = (0, 1, 2, 3)
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.25 * x.mean(axes), rtol=1e-5)
    variance = x.var(axes, ddof=1 if unbiased else 0)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * variance, rtol=1e-5)


def test_test_mode_uses_running_statistics():
    x = data()
    module = BatchNorm(epsilon=1e-3)
    _, variables = run(module, x, steps=3)
    mean, var = variables["batch_stats"]["mean"], variables["batch_stats"]["var"]
    y = module.apply(variables, x, train=False)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-3), rtol=1e-4, atol=1e-4)


def test_groups_are_separate_batches_in_one():
    x = data(n=8) + np.arange(8)[:, None, None, None, None].astype(np.float32)
    y, variables = run(BatchNorm(groups=4), x)
    parts = [run(BatchNorm(), part) for part in np.split(x, 4)]
    np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        expected = np.mean([p[1]["batch_stats"][name] for p in parts], axis=0)
        np.testing.assert_allclose(variables["batch_stats"][name], expected, rtol=1e-4)


def test_variance_survives_a_large_mean_once_training_has_begun():
    """E[x^2] - E[x]^2 in f32 would lose all digits with mean 3000 and deviation 2."""
    x = data(mean=3000.0)
    module = BatchNorm(momentum=0.5)
    y, _ = run(module, x, steps=20)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2, 3))) / exact.std((0, 1, 2, 3))
    assert np.abs(np.asarray(y) - expected).max() < 2e-3


def test_gradient_is_that_of_the_two_pass_formula():
    x = jnp.asarray(data(mean=1.0))
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    seed = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def ours(x):
        return (module.apply(variables, x, train=True, mutable=["batch_stats"])[0] * seed).sum()

    def plain(x):
        mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
        return ((x - mean) / jnp.sqrt(var + 1e-5) * seed).sum()

    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(plain)(x), rtol=1e-3, atol=1e-4)


def test_without_scale_and_in_bfloat16():
    module = BatchNorm(use_scale=False, dtype=jnp.bfloat16)
    y, variables = run(module, jnp.asarray(data(), jnp.bfloat16))
    assert set(variables["params"]) == {"bias"}
    assert y.dtype == jnp.bfloat16
    assert variables["batch_stats"]["var"].dtype == jnp.float32


def test_groups_must_divide_the_batch():
    with pytest.raises(ConfigError, match="groups=3"):
        run(BatchNorm(groups=3), data(n=8))


def test_frozen_uses_and_keeps_the_running_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(4, 2, 3, 3, 5)), jnp.float32)
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    stats = {"mean": jnp.full(5, 0.5), "var": jnp.full(5, 4.0)}
    variables = {**variables, "batch_stats": stats}
    y, updated = BatchNorm(frozen=True).apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, BatchNorm().apply(variables, x, train=False))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], stats)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_has_no_jitted_function(train):
    """A jitted function would keep XLA for TPUs from merging columns with the convolutions.

    The training step of R(2+1)D-18 would need 2.7 times the cycles and memory.
    """
    x = jnp.zeros((2, 3, 8, 8, 64), jnp.bfloat16)
    module = BatchNorm(dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x, train=False)

    def loss(x):
        y, _ = module.apply(variables, x, train=train, mutable=["batch_stats"])
        return y.sum().astype(jnp.float32)

    program = str(jax.make_jaxpr(jax.grad(loss))(x))
    assert "rsqrt" in program
    assert "name=_" not in program, program  # the name of a jitted private function
