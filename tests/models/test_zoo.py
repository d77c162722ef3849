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


def c3d_macs(depths, layers, flat, hidden, classes, crop=112):
    """From the paper's table: `layers` are (stage, frames, shrinkage, channels in and out)."""
    convolutions = sum(
        frames * (-(-crop // shrink)) ** 2 * 9 * depths[stage - 1] * c * d
        for stage, frames, shrink, c, d in layers
    )
    return convolutions + flat * hidden + hidden * hidden + hidden * classes


_C3D = [
    (1, 16, 1, 3, 64),
    (2, 16, 2, 64, 128),
    (3, 8, 4, 128, 256),
    (3, 8, 4, 256, 256),
    (4, 4, 8, 256, 512),
    (4, 4, 8, 512, 512),
    (5, 2, 16, 512, 512),
    (5, 2, 16, 512, 512),
]
# pool1 of stride 2: half the frames from conv2a on.
_C3D_HALF = [_C3D[0], *((s, frames // 2, *rest) for s, frames, *rest in _C3D[1:])]
_C3D_STUDY = [
    (1, 16, 1, 3, 64),
    (2, 16, 2, 64, 128),
    (3, 8, 4, 128, 256),
    (4, 4, 8, 256, 256),
    (5, 2, 16, 256, 256),
]


def study(name, depths, parameters, crop=112, flat=4096):
    macs = c3d_macs(depths, _C3D_STUDY, flat, 2048, 101, crop)
    yield (f"c3d_{name}", {"num_classes": 101}, 16, parameters, parameters, macs)


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
    ("r2d_34", {}, 8, 21_555_728, 21_572_752, 3_781_468_160),
    ("r2d_34", {}, 32, 21_781_520, 21_798_544, 4_489_551_872),
    ("f_r2d_34", {}, 16, 21_489_872, 21_506_896, 57_196_027_904),
    ("r3d_34", {}, 16, 63_681_104, 63_698_128, 75_378_204_672),
    ("mc2_34", {}, 16, 21_508_688, 21_525_712, 58_140_139_520),
    ("mc3_34", {}, 16, 21_951_056, 21_968_080, 80_336_396_288),
    ("mc4_34", {}, 16, 24_162_896, 24_179_920, 71_396_237_312),
    ("mc5_34", {}, 16, 37_728_848, 37_745_872, 74_119_389_184),
    ("rmc2_34", {}, 16, 63_662_288, 63_679_312, 74_434_093_056),
    ("rmc3_34", {}, 16, 63_219_920, 63_236_944, 52_237_836_288),
    ("rmc4_34", {}, 16, 61_008_080, 61_025_104, 65_159_962_624),
    ("rmc5_34", {}, 16, 47_442_128, 47_459_152, 62_231_289_856),
    ("r2plus1d_34", {}, 8, 63_697_175, 63_747_463, 38_089_082_368),
    ("r2plus1d_34", {}, 32, 63_697_175, 63_747_463, 152_355_715_072),
    ("c3d", {}, 16, 79_634_576, 79_634_576, 38_548_602_880),
    ("c3d", {"num_classes": 487}, 16, 79_991_015, 79_991_015, 38_548_959_232),
    ("c3d", {"num_classes": 101}, 16, 78_409_573, 78_409_573, 38_547_378_176),
    ("c3d_bn", {}, 16, 79_656_464, 79_678_352, 38_548_602_880),
    ("c3d_bn_vmz", {}, 16, 64_960_016, 64_965_520, c3d_macs((3,) * 5, _C3D, 4608, 4096, 400)),
    ("c3d_bn_i3d", {}, 16, 79_656_464, 79_678_352, c3d_macs((3,) * 5, _C3D_HALF, 8192, 4096, 400)),
    *study("depth1", (1, 1, 1, 1, 1), 14_344_933),
    *study("depth3", (3, 3, 3, 3, 3), 17_444_965),
    *study("depth5", (5, 5, 5, 5, 5), 20_544_997),
    *study("depth7", (7, 7, 7, 7, 7), 23_645_029),
    *study("increasing", (3, 3, 5, 5, 7), 21_573_733),
    *study("decreasing", (7, 5, 5, 3, 3), 18_189_157),
    *study("net64", (3, 3, 3, 3, 3), 11_153_509, crop=56, flat=1024),
    *study("net256", (3, 3, 3, 3, 3), 34_746_469, crop=224, flat=12544),
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
def test_c3d_endpoints():
    assert summarise("c3d").endpoints == {
        "conv1a": (16, 112, 112, 64),
        "pool1": (16, 56, 56, 64),
        "conv2a": (16, 56, 56, 128),
        "pool2": (8, 28, 28, 128),
        "conv3a": (8, 28, 28, 256),
        "conv3b": (8, 28, 28, 256),
        "pool3": (4, 14, 14, 256),
        "conv4a": (4, 14, 14, 512),
        "conv4b": (4, 14, 14, 512),
        "pool4": (2, 7, 7, 512),
        "conv5a": (2, 7, 7, 512),
        "conv5b": (2, 7, 7, 512),
        "pool5": (1, 4, 4, 512),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (400,),
    }


@pytest.mark.fast
@pytest.mark.parametrize(("pools", "side"), [("ceil", 4), ("symmetric", 4), ("floor", 3)])
def test_c3d_pools(pools, side):
    assert summarise("c3d", pools=pools).endpoints["pool5"] == (1, side, side, 512)


@pytest.mark.fast
def test_c3d_unknown_pools():
    with pytest.raises(ConfigError, match=r"pools='same': allowed are \['ceil'"):
        summarise("c3d", pools="same")


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
    assert jax.tree.structure(stats.get("batch_stats", {})) == jax.tree.structure(
        variables.get("batch_stats", {})
    )
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
