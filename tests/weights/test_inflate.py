import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.layers import conv3d
from jaxvideo.models.inception import I3D, VARIANTS
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import tree
from jaxvideo.weights.inflate import average_channels, inflate, inflate_kernel

# DIRECT compiles fastest.
SMALL = {"width": 1 / 8, "num_classes": 3, "lowering": "direct"}
KERNEL = np.random.default_rng(0).standard_normal((3, 3, 4, 5), np.float32)


def test_kernels():
    for kernel in (KERNEL, KERNEL[None]):
        average = inflate_kernel(kernel, 3)
        assert average.shape == (3, 3, 3, 4, 5)
        np.testing.assert_allclose(average.sum(0), KERNEL, rtol=1e-6)
        np.testing.assert_array_equal(average[0], average[2])
        center = inflate_kernel(kernel, 3, "center")
        np.testing.assert_array_equal(center[1], KERNEL)
        assert not center[[0, 2]].any()
    with pytest.raises(ConfigError, match="inflation 'middle': allowed are average, center"):
        inflate_kernel(KERNEL, 3, "middle")


def test_channels():
    """Ten equal channels of flow give the same result as the gray picture."""
    flow = average_channels(KERNEL, 10)
    assert flow.shape == (3, 3, 10, 5)
    np.testing.assert_allclose(flow.sum(2), KERNEL.mean(2) * 10, rtol=1e-5)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(CheckpointError, match=r"a: \(3, 3, 4, 5\) cannot be inflated to"):
        inflate({"a": KERNEL}, {"a": (3, 3, 3, 6, 5)})


def flat_and_deep(how):
    """f-R2D with random parameters and statistics, and R3D inflated from it."""
    clip = jnp.zeros((1, 4, 32, 32, 3))
    models = [create_model(name, **SMALL) for name in ("f_r2d_10", "r3d_10")]
    flat, deep = (
        tree.flatten(jax.eval_shape(lambda m=m: m.init(jax.random.key(0), clip, train=False)))
        for m in models
    )
    rng = np.random.default_rng(0)

    def value(name, leaf):
        if len(leaf.shape) > 1:
            return rng.standard_normal(leaf.shape, np.float32) * np.prod(leaf.shape[:-1]) ** -0.5
        low, high = (0.5, 2.0) if name.endswith(("var", "scale")) else (-0.3, 0.3)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    weights = {name: value(name, leaf) for name, leaf in flat.items()}
    inflated = inflate(weights, {name: leaf.shape for name, leaf in deep.items()}, how)
    assert inflated.keys() == deep.keys()

    def run(clip):
        return [
            jax.jit(lambda v, x, m=m: m.apply(v, x, train=False))(tree.unflatten(w), clip)[1]
            for m, w in zip(models, (weights, inflated), strict=True)
        ]

    return run


def test_a_boring_video_gives_the_flat_networks_activations():
    """Section 2.3 of the I3D paper, in frames without influence of padding."""
    picture = np.random.default_rng(1).standard_normal((1, 1, 32, 32, 3), np.float32)
    flat, deep = flat_and_deep("average")(np.repeat(picture, 48, axis=1))
    # Reach of the padding in output frames of each stage: one per 3-tap convolution.
    reach = {"conv1": 1, "conv2_x": 3, "conv3_x": 3, "conv4_x": 3}
    for stage, frames in reach.items():
        theirs, ours = np.asarray(flat[stage]), np.asarray(deep[stage])
        inside = ours[:, frames:-frames]
        assert inside.shape[1] > 0
        np.testing.assert_allclose(inside, theirs[:, : inside.shape[1]], rtol=2e-3, atol=2e-4)
        # The padding reaches the first frame, so the test can fail.
        assert np.abs(ours[:, 0] - theirs[:, 0]).max() > 1e-2


def test_center_initialization_is_the_flat_network_on_any_clip():
    clip = np.random.default_rng(2).standard_normal((1, 16, 32, 32, 3), np.float32)
    flat, deep = flat_and_deep("center")(clip)
    for stage, step in {"conv1": 1, "conv2_x": 1, "conv3_x": 2, "conv4_x": 4, "conv5_x": 8}.items():
        np.testing.assert_allclose(
            deep[stage], np.asarray(flat[stage])[:, ::step], rtol=2e-3, atol=2e-4
        )


@pytest.mark.full
def test_inception_of_a_still_video():
    """I3D inflated from Inception-v1 equals it on a still video, without influence of padding.

    See section 2.3 of the I3D paper.
    """
    flat, inflated = (
        I3D(**VARIANTS[name], width=0.125, symmetric=True) for name in ("inception_v1", "i3d")
    )
    rng = np.random.default_rng(0)
    frame = jnp.asarray(rng.standard_normal((1, 1, 32, 32, 3)), jnp.float32)
    clip = jnp.repeat(frame, 64, axis=1)
    variables = jax.jit(lambda: flat.init(jax.random.key(0), frame, train=False))()
    names = tree.flatten(variables)
    names |= {
        n: jnp.asarray(rng.uniform(0.2, 1.0, a.shape), a.dtype)
        for n, a in names.items()
        if n.endswith("/var")
    }
    shapes = jax.eval_shape(lambda: inflated.init(jax.random.key(0), clip, train=False))
    shapes = {n: a.shape for n, a in tree.flatten(shapes).items()}
    kernels = inflate({n: np.asarray(a) for n, a in names.items()}, shapes)

    def ends(model, variables, clip):
        return jax.jit(lambda v, x: model.apply(v, x, train=False)[1])(variables, clip)

    one = ends(flat, tree.unflatten(names), frame)
    many = ends(inflated, tree.unflatten(kernels), clip)
    # (first, last) positions that padding reaches, through 7, 3, 3, 3, ... taps with stride 2.
    for name, first, last in (("conv_1a", 2, 1), ("conv_2c", 3, 2), ("mixed_3c", 5, 4)):
        values, still = np.asarray(many[name]), np.asarray(one[name])
        error = np.sqrt(np.square(values - still).sum((0, 2, 3, 4)) / np.square(still).sum())
        assert error[first:-last].max() < 1e-5, name
        assert error[:first].min() > 1e-4, name
        assert error[-last:].min() > 1e-4, name


def test_what_zeros_at_the_border_cost():
    """A 7-tap kernel of stride 2 has 4, 6, then 7 taps in the clip, and 5 at the end; SAME has
    5 first, and 6 and 4 at the end."""
    kernel = inflate_kernel(np.ones((1, 1, 1, 1), np.float32), 7)
    clip = jnp.ones((1, 64, 1, 1, 1))
    symmetric = conv3d(clip, kernel, (2, 1, 1), (3, 0, 0)).ravel()
    np.testing.assert_allclose(symmetric, np.r_[4, 6, [7] * 29, 5] / 7, rtol=1e-6)
    same = conv3d(clip, kernel, (2, 1, 1), "SAME").ravel()
    np.testing.assert_allclose(same, np.r_[5, [7] * 29, 6, 4] / 7, rtol=1e-6)
