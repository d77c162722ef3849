import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxvideo.layers.deconv import Deconv3D, deconv3d
from jaxvideo.types import ConfigError

# Kernel, strides, padding: MotionNet, the same in time, an odd kernel, no overlap, stride 1.
CASES = [
    ((1, 4, 4), (1, 2, 2), (0, 1, 1)),
    ((4, 4, 4), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 5), (2, 1, 3), (1, 0, 2)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
]


def arrays(kernel, channels=5, features=3, size=(2, 4, 3)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    w = rng.normal(size=(*kernel, channels, features)).astype(np.float32)
    return x, w, rng


def value_and_gradients(function, x, w, seed):
    y, pull = jax.vjp(function, jnp.asarray(x), jnp.asarray(w))
    return (y, *pull(jnp.asarray(seed)))


def close(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-5)


def test_by_hand():
    """Kernel 4, stride 2, padding 1: x[i] w[k] is added at 2 i + k - 1."""
    x, w = np.array([1.0, 10.0], np.float32), np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    y = deconv3d(x.reshape(1, 1, 1, 2, 1), w.reshape(1, 1, 4, 1, 1), (1, 1, 2), (0, 0, 1))
    assert y.ravel().tolist() == [2, 3 + 10, 4 + 20, 30]


@pytest.mark.torch
@pytest.mark.parametrize(("kernel", "strides", "padding"), CASES)
def test_equals_torch(kernel, strides, padding):
    torch = pytest.importorskip("torch")
    x, w, rng = arrays(kernel)
    layer = torch.nn.ConvTranspose3d(5, 3, kernel, strides, padding, bias=False)
    layer.weight.data = torch.tensor(w.transpose(3, 4, 0, 1, 2).copy())
    theirs = torch.tensor(x.transpose(0, 4, 1, 2, 3).copy(), requires_grad=True)
    y = layer(theirs)
    seed = rng.normal(size=y.shape).astype(np.float32)
    y.backward(torch.tensor(seed))
    expected = (
        y.detach().numpy().transpose(0, 2, 3, 4, 1),
        theirs.grad.numpy().transpose(0, 2, 3, 4, 1),
        layer.weight.grad.numpy().transpose(2, 3, 4, 0, 1),
    )
    ours = value_and_gradients(
        lambda x, w: deconv3d(x, w, strides, padding), x, w, seed.transpose(0, 2, 3, 4, 1)
    )
    close(ours, expected)


@pytest.mark.parametrize(("kernel", "strides", "padding"), CASES)
def test_equals_xla(kernel, strides, padding):
    x, w, rng = arrays(kernel)

    def xla(x, w):
        pads = [(k - 1 - pad, k - 1 - pad) for k, pad in zip(kernel, padding, strict=True)]
        names = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_transpose(
            x, w.swapaxes(3, 4), strides, pads, dimension_numbers=names, transpose_kernel=True
        )

    seed = rng.normal(size=jax.eval_shape(xla, x, w).shape).astype(np.float32)
    ours = value_and_gradients(lambda x, w: deconv3d(x, w, strides, padding), x, w, seed)
    close(ours, value_and_gradients(xla, x, w, seed))


def test_module():
    x = jnp.ones((1, 1, 3, 5, 2))
    layer = Deconv3D(4, (1, 4, 4), (1, 2, 2), (0, 1, 1), use_bias=True, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), variables["params"])
    assert shapes == {"kernel": ((1, 4, 4, 2, 4), "float32"), "bias": ((4,), "float32")}
    y = layer.apply(variables, x)
    assert y.shape == (1, 1, 6, 10, 4)
    assert y.dtype == jnp.bfloat16
    shifted = {"params": {**variables["params"], "bias": jnp.arange(4.0)}}
    np.testing.assert_allclose(
        (layer.apply(shifted, x) - y).astype(jnp.float32)[0, 0, 2, 2], np.arange(4), atol=0.05
    )


@pytest.mark.parametrize(
    ("padding", "text"), [("SAME", "padding='SAME'"), (3, r"the result has size \(1, -2, 1\)")]
)
def test_wrong_padding(padding, text):
    padding = padding if isinstance(padding, str) else (0, padding, 0)
    with pytest.raises(ConfigError, match=text):
        deconv3d(jnp.ones((1, 1, 1, 1, 2)), jnp.ones((1, 4, 1, 2, 3)), (1, 2, 1), padding)
