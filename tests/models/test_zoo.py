"""Every entry of the registry: counts of the reference sheet, shapes, names. Nothing is run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxvideo import create_model, list_models
from jaxvideo.models import MODELS
from jaxvideo.models.resnet3d import mid_width
from jaxvideo.models.summary import summarise
from jaxvideo.types import ConfigError
from jaxvideo.weights import tree

GOLDEN = Path(__file__).parent / "golden"

# name, arguments, frames -> parameters, with BN statistics, multiply-adds.
# Counted in PyTorch on VMZ's, torchvision's and kinetics-i3d's nets, 400 classes.
COUNTS = [
    ("r2d_18", {}, 8, 11_447_568, 11_457_168, 1_931_780_096),
    ("r2d_18", {}, 16, 11_522_832, 11_532_432, 2_167_808_000),
    ("f_r2d_18", {}, 16, 11_381_712, 11_391_312, 27_601_018_880),
    ("r3d_18", {}, 16, 33_371_472, 33_381_072, 40_696_553_472),
    ("mc2_18", {}, 16, 11_400_528, 11_410_128, 28_545_130_496),
    ("mc3_18", {}, 16, 11_695_440, 11_705_040, 43_342_635_008),
    ("mc4_18", {}, 16, 12_727_632, 12_737_232, 39_951_540_224),
    ("mc5_18", {}, 16, 16_856_400, 16_866_000, 39_900_160_000),
    ("rmc2_18", {}, 16, 33_352_656, 33_362_256, 39_752_441_856),
    ("rmc3_18", {}, 16, 33_057_744, 33_067_344, 24_954_937_344),
    ("rmc4_18", {}, 16, 32_025_552, 32_035_152, 29_091_045_376),
    ("rmc5_18", {}, 16, 27_896_784, 27_906_384, 30_786_592_768),
    ("r2plus1d_18", {}, 8, 33_370_839, 33_396_999, 20_748_256_768),
    ("r2plus1d_18", {}, 16, 33_370_839, 33_396_999, 41_496_308_736),
    ("r2plus1d_18", {}, 32, 33_370_839, 33_396_999, 82_992_412_672),
    ("r2plus1d_18", {"mid_channels": "per_block"}, 16, 31_505_325, 31_530_675, 40_519_080_960),
    ("i3d_rgb", {}, 64, 12_689_984, 12_704_544, 111_153_143_808),
    ("i3d_rgb", {"bn_scale": True}, 64, 12_697_264, 12_711_824, 111_153_143_808),
    ("s3d", {}, 16, 8_320_048, 8_341_264, 17_978_771_456),
    ("s3d", {}, 64, 8_320_048, 8_341_264, 71_916_314_624),
    ("i3d_flow", {}, 64, 12_668_032, 12_682_592, 102_341_435_392),
]


@pytest.mark.fast
@pytest.mark.parametrize(("name", "arguments", "frames", "parameters", "stored", "macs"), COUNTS)
def test_counts(name, arguments, frames, parameters, stored, macs):
    summary = summarise(name, frames=frames, **arguments)
    assert summary.parameters == parameters
    assert summary.parameters + summary.statistics == stored
    assert summary.macs == macs


@pytest.mark.fast
def test_every_model_is_counted():
    assert {row[0] for row in COUNTS} == set(list_models())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "frames", "temporal"),
    [
        ("r2plus1d_18", 16, [16, 16, 8, 4, 2]),
        ("r2plus1d_18", 8, [8, 8, 4, 2, 1]),
        ("r3d_18", 4, [4, 4, 2, 1, 1]),  # too short: conv5_x keeps its frames
        ("r3d_18", 2, [2, 2, 1, 1, 1]),
        ("r2d_18", 8, [1, 1, 1, 1, 1]),
        ("f_r2d_18", 8, [8, 8, 8, 8, 8]),
        ("mc3_18", 8, [8, 8, 8, 8, 8]),
        ("mc4_18", 8, [8, 8, 4, 4, 4]),
        ("rmc4_18", 8, [8, 8, 8, 4, 2]),
        ("rmc5_18", 8, [8, 8, 8, 8, 4]),
    ],
)
def test_resnet_stages(name, frames, temporal):
    ends = summarise(name, frames=frames).endpoints
    assert list(ends) == ["conv1", *(f"conv{i}_x" for i in range(2, 6)), "pool", "fc"]
    stages = list(ends.values())[:5]
    assert [s[0] for s in stages] == temporal
    assert [s[1:] for s in stages] == [
        (56, 56, 64),
        (56, 56, 64),
        (28, 28, 128),
        (14, 14, 256),
        (7, 7, 512),
    ]
    assert ends["pool"] == (512,)
    assert ends["fc"] == (400,)


@pytest.mark.fast
def test_i3d_endpoints():
    assert summarise("i3d_rgb").endpoints == {
        "conv_1a": (32, 112, 112, 64),
        "pool_2a": (32, 56, 56, 64),
        "conv_2b": (32, 56, 56, 64),
        "conv_2c": (32, 56, 56, 192),
        "pool_3a": (32, 28, 28, 192),
        "mixed_3b": (32, 28, 28, 256),
        "mixed_3c": (32, 28, 28, 480),
        "pool_4a": (16, 14, 14, 480),
        "mixed_4b": (16, 14, 14, 512),
        "mixed_4c": (16, 14, 14, 512),
        "mixed_4d": (16, 14, 14, 512),
        "mixed_4e": (16, 14, 14, 528),
        "mixed_4f": (16, 14, 14, 832),
        "pool_5a": (8, 7, 7, 832),
        "mixed_5b": (8, 7, 7, 832),
        "mixed_5c": (8, 7, 7, 1024),
        "avg_pool": (7, 1, 1, 1024),
        "logits": (400,),
    }


@pytest.mark.fast
@pytest.mark.parametrize(("frames", "positions"), [(16, 1), (79, 9), (100, 12), (250, 31)])
def test_i3d_positions_in_time(frames, positions):
    assert summarise("i3d_rgb", frames=frames).endpoints["avg_pool"][0] == positions


@pytest.mark.fast
def test_mid_widths_of_the_paper():
    pairs = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert [mid_width(*p) for p in pairs] == [144, 230, 288, 460, 576, 921, 1152]


def names_of(name: str) -> str:
    model = create_model(name)
    shape = MODELS[name].preprocessing.shape
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, clip)
    return "".join(
        f"{path} {'x'.join(map(str, leaf.shape))} {leaf.dtype}\n"
        for path, leaf in sorted(tree.flatten(variables).items())
    )


@pytest.mark.fast
@pytest.mark.parametrize("name", list_models())
def test_names_are_kept(name):
    """To regenerate after a wanted change: python -m tests.models.test_zoo"""
    golden = (GOLDEN / f"{name}.txt").read_text()
    assert names_of(name) == golden, (
        "a parameter's name, shape or type changed: this breaks the checkpoints of users. If "
        "that is meant, regenerate with `python -m tests.models.test_zoo` and say so in the "
        "CHANGELOG"
    )


@pytest.mark.parametrize("name", list_models())
def test_runs_small_and_in_bfloat16(name):
    """Shapes and types of a forward and a training pass, at a small size."""
    model = create_model(name, num_classes=7, dtype=jnp.bfloat16)
    channels = MODELS[name].preprocessing.shape[-1]
    clip = jax.ShapeDtypeStruct((2, 8, 32, 32, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, clip)

    def step(variables, clip, key):
        return model.apply(
            variables, clip, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )

    (logits, endpoints), stats = jax.eval_shape(step, variables, clip, key)
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
    assert next(iter(stats["batch_stats"].values()))
    assert endpoints


@pytest.mark.fast
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: create_model("r2plus1d18"), "Did you mean 'r2plus1d_18'"),
        (lambda: create_model("i3d_rgb", widht=2), "Did you mean 'width'"),
        (lambda: create_model("r3d_18", kinds=()), "no argument 'kinds'"),
    ],
)
def test_wrong_names(call, text):
    with pytest.raises(ConfigError, match=text):
        call()


@pytest.mark.fast
def test_entries_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS["r3d_18"].source = "elsewhere"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for model_name in list_models():
        (GOLDEN / f"{model_name}.txt").write_text(names_of(model_name))
