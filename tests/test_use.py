"""What a user types, as the documentation shows it: short programs, executed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxvideo
from jaxvideo.models.resnet3d import FACTORIZED, FULL, ResNet3D
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.weights import tree
from tests.conftest import write_video
from tests.test_network import network as small_network
from tests.test_network import random_values


@pytest.fixture(scope="module")
def network():
    """A network of two blocks with values, and clips. It has all operations of a ResNet."""
    model = ResNet3D((FULL, FACTORIZED, FULL), blocks=(1, 1), num_classes=3, width=1 / 16)
    clips = np.random.default_rng(0).standard_normal((4, 4, 16, 16, 3), np.float32)
    shapes = trace_of_clip(model, clips.shape[1:]).variables
    flat = random_values(tree.flatten(shapes), 0)
    return model, tree.unflatten(flat), jnp.asarray(clips)


def logits_of(model, variables, clips):
    return model.apply(variables, clips, train=False)[0]


def loss_of(params, model, variables, clips):
    return (logits_of(model, {**variables, "params": params}, clips) ** 2).mean()


# Compiled once for all tests.
ANSWER = jax.jit(logits_of, static_argnums=0)
VALUE_AND_GRADIENT = jax.jit(jax.value_and_grad(loss_of), static_argnums=1)


def assert_close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4 * scale)


def test_in_flax_nnx(network):
    model, _, clips = network
    bridged = nnx.bridge.lazy_init(
        nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)), clips[:1], train=False
    )
    logits, endpoints = bridged(clips, train=False)
    assert list(endpoints)[-2:] == ["pre_logits", "logits"]
    variables = {
        "params": nnx.to_pure_dict(nnx.state(bridged, nnx.Param)),
        "batch_stats": nnx.to_pure_dict(nnx.state(bridged, nnx.BatchStat)),
    }
    assert_close(logits, ANSWER(model, variables, clips))


def test_under_shard_map(network):
    """Value and gradients, with the clips of a batch on four devices."""
    model, variables, clips = network
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    answer = jax.shard_map(
        lambda v, c: logits_of(model, v, c),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P("data"),
    )
    assert_close(jax.jit(answer)(variables, clips), ANSWER(model, variables, clips))

    def gradient(params, c):  # the gradient of replicated values is summed over the devices
        return jax.tree.map(lambda g: g / 4, jax.grad(loss_of)(params, model, variables, c))

    gradients = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    _, expected = VALUE_AND_GRADIENT(variables["params"], model, variables, clips)
    assert_close(jax.jit(gradients)(variables["params"], clips), expected)


def test_on_a_mesh_with_explicit_axes(network):
    model, variables, clips = network
    mesh = jax.make_mesh(
        (4,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4]
    )
    expected = VALUE_AND_GRADIENT(variables["params"], model, variables, clips)
    with jax.set_mesh(mesh):
        split = jax.device_put(clips, NamedSharding(mesh, P("data")))
        logits = jax.jit(lambda v, c: logits_of(model, v, c))(variables, split)
        assert jax.typeof(logits).sharding.spec == P("data", None)
        found = VALUE_AND_GRADIENT(variables["params"], model, variables, split)
    assert_close(found, expected)


def test_classify_and_extract_in_a_few_lines(tmp_path):
    own = small_network()
    protocol = jaxvideo.types.Protocol(clips=1)
    clips = jaxvideo.types.Preprocessing(frames=4, size=24, crop=20)
    names = ("a", "b", "c", "d")
    net = jaxvideo.Network(own.name, own.arguments, own.variables, clips, protocol, names, {})
    net.save(tmp_path / "mine.safetensors")
    video = write_video(tmp_path / "clip.mp4", frames=12)

    net = jaxvideo.load(tmp_path / "mine.safetensors")
    top = net.predict(video).top(2)
    assert [name in names for name, _ in top] == [True, True]

    features = net.features(video)
    assert features.shape == (32,)


def test_decode_views_and_prepare_without_train_py(tmp_path, network):
    from jaxvideo.data.pipeline import read_views
    from jaxvideo.data.video import open_video
    from jaxvideo.data.views import protocol_views
    from jaxvideo.inference.prepare import prepare

    model, variables, _ = network
    path = write_video(tmp_path / "clip.mp4", frames=12)
    p = jaxvideo.types.Preprocessing(frames=4, size=24, crop=16)

    with open_video(path) as video:
        size = video.num_frames, video.height, video.width, video.fps
        views = protocol_views(*size, p, jaxvideo.types.Protocol(clips=3))
        clips = prepare(np.concatenate([read_views(video, v, p) for v in views]), p, jnp.float32)
    assert ANSWER(model, variables, clips).shape == (3, 3)


def test_optax_is_all_that_a_training_loop_needs(network):
    model, variables, clips = network
    optimizer = optax.adam(1e-2)
    params, moments = variables["params"], optimizer.init(variables["params"])
    update = jax.jit(optimizer.update)
    losses = []
    for _ in range(3):
        loss, gradients = VALUE_AND_GRADIENT(params, model, variables, clips)
        updates, moments = update(gradients, moments)
        params = jax.jit(optax.apply_updates)(params, updates)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
