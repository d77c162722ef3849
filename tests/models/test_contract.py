"""The contract of `types.Model`: input checks, `register` and the lists of networks."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvideo
from configs import motion
from jaxvideo.models import (
    MODELS,
    create_model,
    differences,
    head_scopes,
    in_head,
    upgraded_arguments,
)
from jaxvideo.models.contract import scaled
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.training.loop import train
from jaxvideo.types import ConfigError, Lowering, Model, Preprocessing
from tests.marks import some

PRE = Preprocessing(frames=2, size=8, crop=8)


class Tiny(nn.Module):
    """A network from outside of the package: mean color, one linear layer."""

    head = "fc"

    num_classes: int = 5
    flaw: str = ""
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x, *, train):
        features = x.astype(jnp.float32).mean((1, 2, 3))
        classes = 4 if self.flaw == "classes" else self.num_classes
        logits = nn.Dense(classes, name="other" if self.flaw == "scope" else "fc")(features)
        if self.flaw == "dtype":
            logits = logits.astype(jnp.bfloat16)
        ends = {"pre_logits": features, "logits": logits}
        if self.flaw == "order":
            ends = {"logits": logits, "pre_logits": features}
        if self.flaw == "features":
            ends["pre_logits"] = features.mean()
        return logits, ends


class WithoutLowering(nn.Module):
    num_classes: int = 5
    dtype: Any = jnp.float32


@pytest.fixture
def registry():
    """Forgets the networks that a test registers."""
    before = dict(MODELS)
    yield MODELS
    MODELS.clear()
    MODELS.update(before)


def test_a_registered_network_is_like_any_other(registry, tmp_path):
    jaxvideo.register("my_net", Tiny, preprocessing=PRE, source="here", defaults={"num_classes": 9})
    assert "my_net" in jaxvideo.list_models()
    assert registry["my_net"].source == "here"
    model = jaxvideo.create_model("my_net")
    assert model.num_classes == 9
    clip = np.zeros((1, *PRE.shape), np.float32)
    variables = model.init(jax.random.key(0), clip, train=False)
    from jaxvideo.pretrained import Weights, save_weights

    spec = {"name": "my_net", "num_classes": 9}
    path = tmp_path / "mine.safetensors"
    save_weights(path, Weights(dict(variables), spec, PRE, tuple("abcdefghi"), {"source": "me"}))
    net = jaxvideo.load(path)
    video = np.full((4, 8, 8, 3), 255, np.uint8)
    assert net.predict(video).probabilities.shape == (9,)
    np.testing.assert_allclose(net.features(video), np.ones(3), rtol=1e-6)
    assert net.with_classes(2).variables["params"]["fc"]["bias"].shape == (2,)


@pytest.mark.full
def test_a_registered_network_can_be_trained(registry, tmp_path):
    jaxvideo.register("my_net", Tiny, preprocessing=PRE)
    config: Any = motion.get_config()
    config.model = {"name": "my_net", "flaw": ""}
    config.data.update(train_videos=16, val_videos=8, root=str(tmp_path / "motion"))
    config.update(batch_size=8, eval_batch_size=8, epochs=1.0)
    config.optim.warmup_epochs = 0.0
    train(config.to_dict(), tmp_path / "run")
    net = jaxvideo.load(tmp_path / "run")
    assert (net.name, len(net.classes)) == ("my_net", 8)


@pytest.mark.parametrize("flaw", ["classes", "scope", "dtype", "order", "features"])
def test_register_checks_the_contract(registry, flaw):
    message = {
        "classes": r"logits are float32 \[2, 4\].*here \[2, 7\]",
        "scope": "head='fc' has no parameters",
        "dtype": "logits are bfloat16",
        "order": r"last two endpoints are \['logits', 'pre_logits'\]",
        "features": r"'pre_logits' has shape \[\]",
    }[flaw]
    with pytest.raises(ConfigError, match=f"model 'mine': .*{message}.*see jaxvideo.types.Model"):
        jaxvideo.register("mine", Tiny, preprocessing=PRE, arguments={"flaw": flaw})
    assert "mine" not in registry


@pytest.mark.parametrize(
    ("name", "build", "message"),
    [
        ("mine", WithoutLowering, "WithoutLowering lacks lowering, head"),
        ("mine", Tiny(), "pass the class, not an instance"),
        ("mine", dict, "is not a subclass"),
        ("r3d_18", Tiny, "'r3d_18' is taken by another network"),
        ("", Tiny, "is empty"),
    ],
)
def test_register_refuses(registry, name, build, message):
    before = dict(registry)
    with pytest.raises(ConfigError, match=message):
        jaxvideo.register(name, build, preprocessing=PRE)
    assert registry == before


def test_register_needs_every_field(registry):
    class Deep(Tiny):
        blocks: int = dataclasses.field(kw_only=True)

    with pytest.raises(ConfigError, match="Deep has no defaults for blocks; pass them"):
        jaxvideo.register("mine", Deep, preprocessing=PRE)
    jaxvideo.register("mine", Deep, preprocessing=PRE, arguments={"blocks": 2})
    assert create_model("mine").blocks == 2


def test_register_refuses_unknown_fields(registry):
    with pytest.raises(ConfigError, match="Tiny has no fields widht"):
        jaxvideo.register("mine", Tiny, preprocessing=PRE, defaults={"widht": 1.0})


def test_list_models():
    found = jaxvideo.list_models("*slowfast*")
    assert found
    assert all("slowfast" in name for name in found)
    assert found == sorted(found)
    assert jaxvideo.list_models("nothing*") == []
    assert len(jaxvideo.list_models()) == len(MODELS)
    with_weights = jaxvideo.list_models("*r2plus1d*", weights=True)
    assert {"r2plus1d_18", "r2plus1d_34"} <= set(with_weights)
    assert "r2plus1d_18_hara" not in with_weights  # files of it can be read, but have no name
    assert "lrcn" not in jaxvideo.list_models(weights=True)


def test_heads():
    assert head_scopes(create_model("i3d_rgb")) == ("logits",)
    late = create_model("two_stream_fusion_late")
    assert head_scopes(late) == ("spatial/fc8", "temporal/fc8")
    assert in_head(late, "params/temporal/fc8/kernel")
    assert not in_head(late, "params/temporal/fc7/kernel")
    assert not in_head(create_model("x3d_m"), "params/fc1/kernel")


def test_differences_that_weights_do_not_show():
    base = create_model("c3d")
    assert differences(base, create_model("c3d", pools="floor")) == ["pools: ceil and floor"]
    free = {"num_classes": 3, "width": 0.5, "dropout_rate": 0.0, "bn_epsilon": 1.0}
    assert differences(base, create_model("c3d", **free, lowering=Lowering.DIRECT)) == []
    assert differences(base, create_model("lrcn")) == ["C3D and LRCN"]
    r2plus1d = create_model("r2plus1d_18", mid_channels="per_block")
    assert differences(r2plus1d, create_model("r2plus1d_18")) == []


def test_every_network_is_a_model():
    """Checked by the type checker."""
    from jaxvideo.models.c3d import C3D
    from jaxvideo.models.two_stream import TwoStreamFusion

    models: list[Model] = [C3D(), TwoStreamFusion(), Tiny()]
    assert all(model.head for model in models)


@pytest.mark.parametrize("width", [0, -1.0, 4, 64])
def test_width_must_be_a_factor(width):
    for call in (lambda: scaled(64, width), lambda: create_model("r3d_18", width=width)):
        with pytest.raises(ConfigError, match=rf"width={width} is not a factor between 0 and 4"):
            call()


def test_arguments_of_version_0_1():
    for name, width, expected in (
        ("r2plus1d_18", 8, 0.125),
        ("densenet3d_161", 96, 1.0),
        ("t3d_121_tsn", 16, 0.25),
        ("x3d_m", 1.0, 0.5),
        ("x3d_xl", 2.9, 1.0),
        ("i3d_rgb", 0.25, 0.25),
    ):
        old = {"width": width, "num_classes": 3}
        assert upgraded_arguments(name, old) == {"width": expected, "num_classes": 3}
    assert upgraded_arguments("c3d", {}) == {}


# --- Input ----------------------------------------------------------------------------------

EVERY = {entry.build: name for name, entry in reversed(MODELS.items())}


@pytest.mark.parametrize("name", EVERY.values())
def test_wrong_clips_are_refused_before_anything_is_computed(name):
    model, shape = create_model(name), MODELS[name].preprocessing.shape

    def init(shape, dtype=jnp.float32):
        return jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros(shape, dtype), train=False)
        )

    t, h, w, c = shape
    who = type(model).__name__
    for wrong, message in (
        ((1, c, t, h, w), rf"{who}: .*C = {w}.*torch's order"),
        (shape, rf"{who}: .*must be \[N, T, H, W, C\]. Add the batch axis"),
        ((1, t, h, w, 7), rf"{who}: .*C = 7; the network takes"),
    ):
        with pytest.raises(ConfigError, match=message):
            init(wrong)
    with pytest.raises(ConfigError, match=rf"{who}: the clip is uint8.*Network.prepare"):
        init((1, *shape), jnp.uint8)


@pytest.mark.parametrize("name", some(["r3d_18", "r2plus1d_18", "s3d", "slowfast_r50"], ["s3d"]))
def test_channels_must_be_those_of_the_parameters(name):
    """Flow for weights of RGB, which are initialized alike."""
    model, (t, h, w, c) = create_model(name), MODELS[name].preprocessing.shape
    variables = trace_of_clip(model, (t, h, w, c)).variables
    clip = jax.ShapeDtypeStruct((1, t, h, w, 2), jnp.float32)
    with pytest.raises(ConfigError, match=r"C = 2; its parameters expect .* C = 3"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, clip)
    clip = jax.ShapeDtypeStruct((1, t, h, w, c), jnp.bfloat16)
    logits, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, clip)
    assert logits.shape == (1, model.num_classes)


def test_a_part_of_a_larger_network_takes_stacked_channels():
    class Larger(nn.Module):
        @nn.compact
        def __call__(self, x):
            return create_model("r3d_10", width=1 / 16)(x, train=False)[0]

    clip = jax.ShapeDtypeStruct((1, 4, 16, 16, 12), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: Larger().init_with_output(jax.random.key(0), x), clip)
    assert logits.shape == (1, 400)


@pytest.mark.parametrize(
    ("name", "first"),
    [("i3d", "i3d_rgb"), ("slow", "slow_r50"), ("csn", "csn_r50"), ("r3d18", "r3d_18")],
)
def test_names_that_begin_alike_are_suggested_first(name, first):
    with pytest.raises(ConfigError, match=f"no model '{name}'. Did you mean '{first}'") as caught:
        create_model(name)
    assert str(caught.value).count(" or ") <= 7
