"""Every entry of the registry: counts of the reference sheet, shapes, names. Nothing is run."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvideo import create_model, list_models
from jaxvideo.models import MODELS, arguments_for, contract, in_head
from jaxvideo.models.inception import I3D, VARIANTS
from jaxvideo.models.resnet3d import mid_width
from jaxvideo.models.summary import Summary, Trace, summarize, summary_of, trace, trace_of_clip
from jaxvideo.types import ConfigError
from jaxvideo.weights import tree
from tests.layers import zoo_convolutions
from tests.marks import some

GOLDEN = Path(__file__).parent / "golden"


class Facts(NamedTuple):
    """Results of one trace of a network."""

    summary: Summary
    names: str
    model: Any
    trace: Trace  # without its program
    convolutions: frozenset


@functools.cache
def facts(name: str, frames: int = 0, crop: int = 0, **arguments) -> Facts:
    """Traces a bfloat16 network. Counts, names and shapes do not depend on the dtype."""
    t, h, w, c = MODELS[name].preprocessing.shape
    shape = (frames or t, crop or h, crop or w, c)
    model = create_model(name, dtype=jnp.bfloat16, **arguments)
    traced = trace_of_clip(model, shape)
    names = "".join(
        f"{path} {'x'.join(map(str, leaf.shape))} {leaf.dtype}\n"
        for path, leaf in sorted(tree.flatten(traced.variables).items())
    )
    convolutions = frozenset(zoo_convolutions.made_small(*each) for each in traced.convolutions)
    kept = dataclasses.replace(traced, program=None)
    return Facts(summary_of(traced, shape), names, model, kept, convolutions)


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


# name, arguments, frames -> parameters, with BN statistics, multiply-adds (None: not counted).
# Counted in PyTorch on VMZ's, torchvision's, Hara's and kinetics-i3d's nets and P3D's port, 400
# classes; multiply-adds that end in 000,000 are rounded there.
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
    ("r2d_10", {}, 8, 5_176_848, 5_182_608, None),
    ("r3d_10", {}, 16, 14_566_992, 14_572_752, None),
    ("mc3_10", {}, 16, 5_277_264, 5_283_024, None),
    ("rmc3_10", {}, 16, 14_400_720, 14_406_480, None),
    ("r2plus1d_10", {}, 16, 14_557_719, 14_571_399, None),
    ("r2plus1d_34", {"mid_channels": "per_block"}, 16, 61_831_661, None, 75_201_000_000),
    ("resnet10_3d_a", {}, 16, 14_430_800, 14_434_768, 5_642_067_968),
    ("resnet18_3d_a", {}, 16, 33_235_280, 33_243_088, 8_296_275_968),
    ("resnet34_3d_a", {}, 16, 63_544_912, 63_560_144, 12_684_566_528),
    ("resnet50_3d_a", {}, 16, 44_242_000, None, 9_778_855_936),
    ("resnet101_3d_a", {}, 16, 83_288_144, None, 13_600_260_096),
    ("resnet152_3d_a", {}, 16, 115_446_864, None, 18_320_818_176),
    ("resnet200_3d_a", {}, 16, 124_646_480, None, 25_514_049_536),
    ("resnet10_3d_b", {}, 16, 14_604_624, 14_610_384, 5_653_798_912),
    ("resnet18_3d_b", {}, 16, 33_409_104, 33_418_704, 8_308_006_912),
    ("resnet34_3d_b", {}, 16, 63_718_736, 63_735_760, 12_696_297_472),
    ("resnet50_3d_b", {}, 16, 47_018_576, 47_071_696, 10_069_311_488),
    ("resnet101_3d_b", {}, 16, 86_064_720, 86_170_064, 13_890_715_648),
    ("resnet152_3d_b", {}, 16, 118_223_440, 118_374_864, 18_611_273_728),
    ("resnet200_3d_b", {}, 16, 127_423_056, 127_599_056, 25_804_505_088),
    ("resnet10_3d_b", {"num_classes": 700}, 16, 14_758_524, None, None),
    ("resnet50_3d_b", {"num_classes": 700}, 16, 47_633_276, None, None),
    ("resnet200_3d_b", {"num_classes": 700}, 16, 128_037_756, None, None),
    ("preact_resnet18_3d", {}, 16, 33_408_208, None, None),
    ("preact_resnet34_3d", {}, 16, 63_717_840, None, None),
    ("preact_resnet50_3d", {}, 16, 47_014_608, None, None),
    ("preact_resnet101_3d", {}, 16, 86_060_752, None, None),
    ("preact_resnet152_3d", {}, 16, 118_219_472, None, None),
    ("preact_resnet200_3d", {}, 16, 127_419_088, None, 25_805_000_000),
    ("wide_resnet50_3d", {}, 16, 158_248_272, 158_316_496, 26_240_000_000),
    ("resnext50_3d", {}, 16, 26_685_264, None, 7_452_000_000),
    ("resnext101_3d", {}, 16, 48_340_816, None, 9_568_000_000),
    ("resnext101_3d", {}, 64, 48_340_816, None, 38_268_000_000),
    ("resnext152_3d", {}, 16, 66_178_896, None, 12_181_000_000),
    ("r2plus1d_18_hara", {}, 16, 33_421_164, None, 8_477_000_000),
    ("r2plus1d_34_hara", {}, 16, 63_747_500, None, 12_865_000_000),
    ("r2plus1d_50_hara", {}, 16, 47_035_382, None, 10_524_000_000),
    ("p3d_63", {}, 16, 25_745_232, None, 8_442_000_000),
    ("p3d_63", {"num_classes": 487}, 16, 25_923_495, None, None),
    ("p3d_131", {}, 16, 48_088_400, None, 12_898_000_000),
    ("p3d_199", {}, 16, 66_492_240, None, None),
    ("p3d_199", {"num_classes": 487}, 16, 66_670_503, None, 18_404_000_000),
    ("c3d_sports1m", {}, 16, 79_991_015, 79_991_015, 38_548_959_232),
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
    ("i3d_flow", {"bn_scale": True}, 64, 12_675_312, 12_689_872, 102_341_435_392),
    ("i3d_two_stream", {}, 64, 25_358_016, 25_387_136, 213_494_000_000),
    ("inception_v1", {"bn_scale": True}, 1, 6_009_904, 6_024_464, 1_498_000_000),
    ("i2d", {}, 64, 6_002_624, 6_017_184, 36_891_000_000),
    ("i3d_top_heavy_2c", {}, 64, 12_633_536, 12_648_096, 88_495_000_000),
    ("i3d_top_heavy_3b", {}, 64, 12_412_352, 12_426_912, 66_298_000_000),
    ("i3d_top_heavy_4b", {}, 64, 11_684_288, 11_698_848, 48_033_000_000),
    ("i3d_top_heavy_4e", {}, 64, 10_214_336, 10_228_896, 43_423_000_000),
    ("i3d_top_heavy_5b", {}, 64, 8_435_648, 8_450_208, 37_845_000_000),
    ("i3d_bottom_heavy_2c", {}, 64, 6_280_256, 6_294_816, 81_746_000_000),
    ("i3d_bottom_heavy_3c", {}, 64, 7_008_320, 7_022_880, 100_012_000_000),
    ("i3d_bottom_heavy_4d", {}, 64, 8_478_272, 8_492_832, 104_621_000_000),
    ("i3d_bottom_heavy_4f", {}, 64, 10_256_960, 10_271_520, 110_199_000_000),
    ("s3d_paper", {}, 64, 8_309_440, 8_330_656, 71_916_000_000),
    ("s3d_paper", {"separable_stem": False}, 64, 8_337_152, None, 79_289_000_000),
    ("s3d_slim", {}, 64, 8_299_520, 8_314_080, 64_184_000_000),
    ("s3d_top_heavy_3b", {}, 64, 8_169_920, None, 45_533_000_000),
    ("s3d_top_heavy_4b", {}, 64, 7_979_008, None, 40_754_000_000),
    ("s3d_top_heavy_5b", {}, 64, 6_851_456, None, 37_223_000_000),
    ("s3dg", {}, 64, 9_518_848, 9_533_408, 64_185_000_000),
    ("s3dg_paper", {}, 64, 9_070_976, None, 71_917_000_000),
    # Sheet, section 2: the trunk on every frame; the LSTM's four gates, and the classifier of the
    # last step and of the others. The sheet's parameters and 10 x 512 of the recurrent BN.
    (
        "convnet_lstm",
        {},
        25,
        8_945_600 + 5_120,
        None,
        25 * (1_497_761_792 + 4 * 512 * (1024 + 512) + 512 * 400 - 1024 * 400),
    ),
    ("two_stream_inception", {}, 10, 12_058_560, 12_058_560 + 29_120, 3_664_000_000),
    ("fused_two_stream_inception", {}, 50, 39_755_824, None, None),
    ("two_stream_spatial", {}, 1, 90_627_813, 90_627_813, 1_664_000_000),
    ("two_stream_temporal", {}, 10, 90_707_781, 90_707_781, 2_614_000_000),
    ("two_stream_temporal_trajectories", {}, 10, 90_707_781, 90_707_781, 2_614_000_000),
    ("two_stream_spatial_vgg16", {}, 1, 138_357_544 - 899 * 4097, None, None),
    ("two_stream_temporal_vgg16", {}, 10, 134_684_133, 134_684_133, None),
    # Sum of the two streams; arXiv 1604.06573 prints 97.31M, 172.81M for these less 79,968: it
    # counts 20 input channels for both towers.
    ("two_stream_fusion_late", {}, 10, 181_335_594, 181_335_594, 4_278_000_000),
    ("two_stream_fusion_sum", {}, 10, 97_236_421, 97_236_421, None),
    ("two_stream_fusion_max", {}, 10, 97_236_421, 97_236_421, None),
    ("two_stream_fusion_concat", {}, 10, 172_733_893, 172_733_893, None),
    ("two_stream_fusion_conv", {}, 10, 97_236_421 + 1024 * 512 + 512, None, None),
    ("two_stream_fusion_bilinear", {}, 10, 6_528_640 + 6_608_608 + 512**2 * 101 + 101, None, None),
    ("two_stream_fusion_3d", {}, 50, 134_674_341 + 134_684_133 + 27 * 1024 * 512 + 512, None, None),
    ("tsn_rgb", {}, 3, 10_373_765, 10_373_765 + 20_032, None),
    ("tsn_rgb", {"num_classes": 400}, 3, 10_680_240, 10_680_240 + 20_032, None),
    ("tsn_flow", {}, 15, 10_373_765 + 7 * 7 * 7 * 64, None, None),
    ("tsn_rgb_diff", {}, 15, 10_373_765 + 12 * 7 * 7 * 64, None, None),
    ("tsn_resnet50_rgb", {}, 3, 25_557_032 - 600 * 2049, None, None),
    ("tsn_resnet101_rgb", {}, 3, 44_549_160 - 600 * 2049, None, None),
    ("hidden_two_stream", {}, 11, 42_319_860 + 134_684_133, None, None),
    ("hidden_two_stream_tiny", {}, 11, 1_950_308 + 134_684_133, None, None),
    ("lrcn", {}, 16, 65_421_285, 65_421_285, None),
    ("lrcn_fc7", {}, 16, 65_421_285 + 4096 * 4097, None, None),
    ("lrcn_flow", {}, 16, 82_016_997, 82_016_997, None),
    # Sheet, 1.11, measured on PySlowFast and pytorchvideo at 224.
    ("slow_r50", {}, 8, 32_454_096, None, 41_741_000_000),
    ("slow_4x16_r50", {}, 4, 32_454_096, None, 20_871_000_000),
    ("slow_r50_nl", {}, 8, 39_812_560, None, 63_976_000_000),
    ("fast_r50", {}, 32, 616_952, None, 5_283_000_000),
    ("slowfast_4x16_r50", {}, 32, 34_480_216, None, 27_639_000_000),
    ("slowfast_4x16_r50", {"lateral": "none"}, 32, 33_070_648, None, 26_150_000_000),
    ("slowfast_4x16_r50", {"lateral": "time_to_channel_sum"}, 32, 33_070_648, None, 26_150_000_000),
    ("slowfast_4x16_r50", {"lateral": "time_to_channel"}, 32, 37_842_488, None, 30_520_000_000),
    ("slowfast_4x16_r50", {"lateral": "time_sample"}, 32, 33_667_128, None, 26_700_000_000),
    ("slowfast_r50", {}, 32, 34_566_488, None, 50_309_000_000),
    ("slowfast_r50", {"num_classes": 600}, 32, 35_027_488, None, None),
    ("slowfast_r101", {}, 32, 62_826_968, None, 96_397_000_000),
    ("slowfast_8x8_r101_50_50", {}, 32, 53_774_808, None, 81_548_000_000),
    ("slowfast_16x8_r101_50_50", {}, 64, 53_774_808, None, 163_095_000_000),
    ("slowfast_16x8_r101_nl", {}, 64, 60_080_088, None, 182_980_000_000),
    ("c2d_r50", {}, 8, 24_327_632, None, 19_493_000_000),
    ("i3d_r50", {}, 8, 28_043_472, None, 28_408_000_000),
    ("c2d_r50_nl", {}, 8, 31_686_096, None, 27_620_000_000),
    ("i3d_r50_nl", {}, 8, 35_401_936, None, 36_540_000_000),
    # Sheet, 2.8.
    ("x2d", {}, 1, 1_633_512, None, 20_660_000),
    ("x3d_xs", {}, 4, 3_794_274, None, 605_000_000),
    ("x3d_s", {}, 13, 3_794_274, None, 1_963_000_000),
    ("x3d_m", {}, 16, 3_794_274, None, 4_732_000_000),
    ("x3d_m", {"res2_shortcut_bn": True}, 16, 3_794_322, None, 4_732_000_000),
    ("x3d_m", {"num_classes": 600}, 16, 4_204_074, None, None),
    ("x3d_l", {}, 16, 6_153_384, None, 18_368_000_000),
    ("x3d_xl", {}, 16, 11_095_840, None, 35_838_000_000),
    # Sheet, 3.2 and 3.3; 161 and 201 by the closed form of test_densenet3d.
    ("densenet3d_121", {}, 32, 11_658_896, None, 34_110_000_000),
    ("densenet3d_161", {}, 32, 40_323_088, None, None),
    ("densenet3d_169", {}, 32, 19_214_992, None, 35_260_000_000),
    ("densenet3d_201", {}, 32, 26_105_488, None, None),
    ("t3d_121", {}, 32, 29_731_728, None, 114_300_000_000),
    ("t3d_121", {"ttl_depths": (6, 4, 4)}, 32, 30_321_552, None, 129_100_000_000),
    ("t3d_121", {"ttl": "instead"}, 32, 29_731_728 - 3 * (2 * 384 + 384 * 384), None, None),
    ("t3d_169", {}, 32, 38_374_032, None, 116_200_000_000),
    ("t3d_121_transfer", {}, 32, 37_734_929, None, 114_300_000_000),  # at test the student alone
    ("t3d_121_tsn", {}, 96, 29_731_728, None, 342_900_000_000),
    ("t3d_169", {"ttl_depths": (6, 4, 4)}, 32, 38_963_856, None, 131_000_000_000),
    # Sheet, 4.2.
    ("csn_r50", {}, 32, 13_131_152, None, 42_309_000_000),
    ("csn_r101", {}, 32, 22_213_776, None, 56_468_000_000),
    ("csn_r152", {}, 32, 29_703_568, None, 74_046_000_000),
    ("ip_csn_r152", {}, 32, 33_016_592, None, 83_295_000_000),
]


def check_counts(summary, parameters, stored, macs):
    assert summary.parameters == parameters
    assert stored is None or summary.parameters + summary.statistics == stored
    if macs is not None and macs % 10_000 == 0:  # rounded there
        assert abs(summary.macs - macs) <= max(1e-3 * macs, 10_000)
    else:
        assert macs is None or summary.macs == macs


def is_own(row) -> bool:
    """Whether a row of COUNTS is of the network's own clip and arguments."""
    name, arguments, frames, *_ = row
    return not arguments and frames == MODELS[name].preprocessing.frames


# Deeper networks repeat the names of the shallower ones.
SHALLOW = [n for n in list_models() if not re.search("101|131|152|199|200", n)]


@pytest.mark.parametrize("name", list_models())
def test_entry(name):
    """Counts, names, shapes and dtypes, and the contract of `types.Model`, from one trace."""
    found = facts(name)
    for row in COUNTS:
        if row[0] == name and is_own(row):
            check_counts(found.summary, *row[3:])
    # Last endpoints, logits and head; logits are f32 although the network computes in bfloat16.
    contract.check_fields(type(found.model), name)
    contract.check_outputs(found.model, name, found.trace, batch=1)
    variables = tree.flatten(found.trace.variables)
    kernels = [n for n in variables if in_head(found.model, n) and n.endswith("/kernel")]
    features = found.trace.endpoints["pre_logits"].shape[-1]
    assert sum(variables[kernel].shape[-2] for kernel in kernels) == features
    if any(n.endswith("/mean") for n in variables):
        assert found.model.bn_groups == 1
        assert found.model.bn_epsilon > 0
    if name in SHALLOW:
        assert found.names == (GOLDEN / f"{name}.txt").read_text(), (
            "a parameter's name, shape or dtype changed: this breaks the checkpoints of users. If "
            "that is intended, regenerate with `python -m tests.models.test_zoo` and add a line "
            "to the CHANGELOG"
        )


def one_per_class():
    first = {}
    for name, entry in MODELS.items():
        first.setdefault(entry.build, name)
    return list(first.values())


@pytest.mark.parametrize("name", one_per_class())
def test_width_is_a_factor(name):
    """Half the width is half the channels of the widest map, in every class of networks."""

    def widest(found):
        maps = [end.shape for end in found.trace.endpoints.values() if len(end.shape) == 5]
        return max(shape[-1] for shape in maps if shape[2] > 1)

    assert create_model(name).width == 1.0
    assert widest(facts(name)) == 2 * widest(facts(name, width=0.5))


@pytest.mark.full
@pytest.mark.parametrize("row", [row for row in COUNTS if not is_own(row)], ids=str)
def test_counts_of_other_clips_and_arguments(row):
    name, arguments, frames, *counts = row
    check_counts(summarize(name, frames=frames, **arguments), *counts)


# Ten layers of the other seven kinds: no source has them, their table row is that of 18.
_UNCOUNTED = {f"{kind}_10" for kind in ("f_r2d", "mc2", "mc4", "mc5", "rmc2", "rmc4", "rmc5")}


def test_every_model_is_counted():
    assert {row[0] for row in COUNTS} | _UNCOUNTED == set(list_models())


# Frames after conv1, conv2_x, ..., conv5_x as shares of the clip's length L; R2D has one frame.
TEMPORAL = {
    "r2d": None,
    "f_r2d": (1, 1, 1, 1, 1),
    "mc2": (1, 1, 1, 1, 1),
    "mc3": (1, 1, 1, 1, 1),
    "mc4": (1, 1, 2, 2, 2),
    "mc5": (1, 1, 2, 4, 4),
    "r3d": (1, 1, 2, 4, 8),
    "rmc2": (1, 1, 2, 4, 8),
    "rmc3": (1, 1, 2, 4, 8),
    "rmc4": (1, 1, 1, 2, 4),
    "rmc5": (1, 1, 1, 1, 2),
    "r2plus1d": (1, 1, 2, 4, 8),
}


@pytest.mark.parametrize("depth", some([18, 34], [18]))
@pytest.mark.parametrize("frames", some([8, 16, 32], [16]))
@pytest.mark.parametrize("kind", TEMPORAL)
def test_temporal_sizes(kind, frames, depth):
    shares = TEMPORAL[kind]
    expected = [frames // share for share in shares] if shares else [1] * 5
    ends = summarize(f"{kind}_{depth}", frames=frames, crop=32).endpoints
    assert [ends[stage][0] for stage in list(ends)[:5]] == expected


@pytest.mark.parametrize(
    ("frames", "strided", "kept"),
    [
        (2, [2, 2, 1, 1, 1], [2, 2, 1, 1, 1]),
        (3, [3, 3, 2, 1, 1], [3, 3, 2, 2, 2]),
        (4, [4, 4, 2, 1, 1], [4, 4, 2, 1, 1]),
        (6, [6, 6, 3, 2, 1], [6, 6, 3, 2, 2]),
    ],
)
def test_very_short_clips(frames, strided, kept):
    """torchvision halves time in every stage, VMZ's Caffe2 code spares short clips."""
    for rule, expected in {"strided": strided, "kept": kept}.items():
        ends = summarize("r3d_18", frames=frames, crop=32, short_clips=rule).endpoints
        assert [ends[stage][0] for stage in list(ends)[:5]] == expected
    assert create_model("r3d_18").short_clips == "strided"


def test_labels_that_do_not_exclude_each_other():
    assert arguments_for("x3d_m", {"width": 1.0}, exclusive=False) == {
        "width": 1.0,
        "positions": "sigmoid",
    }
    assert arguments_for("r3d_18", {}, exclusive=False) == {}
    assert arguments_for("slow_r50", {"positions": "sigmoid"}, exclusive=True) == {
        "positions": "softmax"
    }
    assert arguments_for("slow_r50", {"positions": "logits"}, exclusive=False) == {
        "positions": "logits"
    }


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_34", "mc3_10"])
def test_resnet_stages(name):
    ends = facts(name).summary.endpoints
    stages = [f"conv{i}_x" for i in range(2, 6)]
    assert list(ends) == ["conv1", *stages, "pool", "fc", "pre_logits", "logits"]
    assert [s[1:] for s in list(ends.values())[:5]] == [
        (56, 56, 64),
        (56, 56, 64),
        (28, 28, 128),
        (14, 14, 256),
        (7, 7, 512),
    ]
    assert ends["pool"] == (512,)
    assert ends["fc"] == (400,)


@pytest.mark.parametrize(
    ("name", "expansion"),
    [("resnet18_3d_a", 1), ("resnet50_3d_b", 4), ("preact_resnet18_3d", 1), ("resnext50_3d", 4)],
)
def test_hara_stages(name, expansion):
    assert facts(name).summary.endpoints == {
        "conv1": (16, 56, 56, 64),
        "pool1": (8, 28, 28, 64),
        "conv2_x": (8, 28, 28, 64 * expansion),
        "conv3_x": (4, 14, 14, 128 * expansion),
        "conv4_x": (2, 7, 7, 256 * expansion),
        "conv5_x": (1, 4, 4, 512 * expansion),
        "pool": (512 * expansion,),
        "fc": (400,),
        "pre_logits": (512 * expansion,),
        "logits": (400,),
    }


@pytest.mark.parametrize("form", ["official", "port"])
def test_p3d_stages(form):
    assert summarize("p3d_63", form=form).endpoints == {
        "conv1": (16, 80, 80, 64),
        "pool1": (8, 40, 40, 64),
        "conv2_x": (8, 40, 40, 256),
        "conv3_x": (4, 20, 20, 512),
        "conv4_x": (2, 10, 10, 1024),
        "conv5_x": (1, 5, 5, 2048),
        "pool": (2048,),
        "fc": (400,),
        "pre_logits": (2048,),
        "logits": (400,),
    }


def test_c3d_endpoints():
    assert facts("c3d").summary.endpoints == {
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
        "pre_logits": (4096,),
        "logits": (400,),
    }


@pytest.mark.parametrize(("pools", "side"), [("ceil", 4), ("symmetric", 4), ("floor", 3)])
def test_c3d_pools(pools, side):
    assert summarize("c3d", pools=pools).endpoints["pool5"] == (1, side, side, 512)


def test_c3d_unknown_pools():
    with pytest.raises(ConfigError, match=r"pools='same': allowed are \['ceil'"):
        summarize("c3d", pools="same")


def test_i3d_endpoints():
    assert facts("i3d_rgb").summary.endpoints == {
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
        "pre_logits": (7, 1, 1, 1024),
        "logits": (400,),
    }


def test_s3dg_in_three_forms():
    """Gates and their biases: of the authors' code, of the paper, and of both."""

    def gates(**arguments):
        variables = jax.eval_shape(
            lambda: I3D(**arguments).init(
                jax.random.key(0), jnp.zeros((1, 16, 32, 32, 3)), train=False
            )
        )
        names = tree.flatten(variables["params"])
        return [n for n in names if "gate" in n and n.endswith("kernel")], [
            n for n in names if "gate" in n and n.endswith("bias")
        ]

    kernels, biases = gates(**VARIANTS["s3dg"])
    assert (len(kernels), len(biases)) == (37, 0)
    kernels, biases = gates(**VARIANTS["s3dg_paper"])
    assert (len(kernels), len(biases)) == (19, 19)
    assert "mixed_3b/branch_1/gate_b/kernel" in kernels


@pytest.mark.full
def test_slim_starts_as_its_2d_net():
    """Temporal kernels start as the identity: a block's first output is its spatial half's."""
    model = I3D(**VARIANTS["s3d_slim"], width=0.125)
    clip = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 32, 32, 3)), jnp.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), clip, train=False))()
    kernel = variables["params"]["conv_2c"]["temporal"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 0, 0], np.eye(24))
    assert not kernel[::2].any()
    spatial = I3D(**VARIANTS["s3d_slim"], width=0.125).clone(temporal=("1a",))
    flat = tree.flatten(variables)
    flat = {
        n.replace("/spatial/", "/").replace("/bn/", "/"): a
        for n, a in flat.items()
        if "/temporal/" not in n
    }
    names = {re.sub(r"conv_(2c|b)/(bias|mean|var)$", r"bn_\1/\2", n): a for n, a in flat.items()}
    ours = model.apply(variables, clip, train=False)[1]
    flats = spatial.apply(tree.unflatten(names), clip, train=False)[1]
    np.testing.assert_allclose(ours["mixed_5c"], flats["mixed_5c"], rtol=1e-4, atol=1e-6)


def test_unknown_layers_of_inception():
    with pytest.raises(ConfigError, match=r"temporal=\('2b',\): allowed are"):
        summarize("i3d_rgb", frames=4, crop=32, temporal=("2b",))
    with pytest.raises(ConfigError, match="gates='some'"):
        summarize("i3d_rgb", frames=4, crop=32, gates="some")


@pytest.mark.parametrize(("frames", "positions"), [(16, 1), (79, 9), (100, 12), (250, 31)])
def test_i3d_positions_in_time(frames, positions):
    assert summarize("i3d_rgb", frames=frames).endpoints["avg_pool"][0] == positions


def test_mid_widths_of_the_paper():
    pairs = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert [mid_width(*p) for p in pairs] == [144, 230, 288, 460, 576, 921, 1152]


@pytest.mark.full
def test_the_convolutions_of_the_zoo_are_kept():
    """The lowerings are compared on them. To regenerate: python -m tests.models.test_zoo"""
    found = frozenset().union(*(facts(name).convolutions for name in list_models()))
    assert zoo_convolutions.FILE.read_text() == zoo_convolutions.text_of(found)


@pytest.mark.full
@pytest.mark.parametrize("name", SHALLOW)
def test_trains_small_and_in_bfloat16(name):
    """Shapes and types of a training pass, at a small size."""
    model = create_model(name, num_classes=7, dtype=jnp.bfloat16)
    preprocessing = MODELS[name].preprocessing
    # Snippets of several frames, and networks of image size, are as long as they are.
    long = preprocessing.segments > 1 or "two_stream" in name
    frames = preprocessing.frames if long else 8
    clip = jax.ShapeDtypeStruct((2, frames, 48, 48, preprocessing.shape[-1]), jnp.float32)
    traced = trace(model, clip)
    assert traced.logits.shape == (2, 7)

    def step(variables, clip):
        return model.apply(
            variables,
            clip,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )

    (logits, endpoints), stats = jax.eval_shape(step, traced.variables, clip)
    # Some have a loss for each of several answers.
    assert (logits.shape[0], logits.shape[-1]) == (2, 7)
    assert logits.dtype == jnp.float32
    assert jax.tree.structure(stats.get("batch_stats", {})) == jax.tree.structure(
        traced.variables.get("batch_stats", {})
    )
    assert endpoints


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: create_model("r2plus1d18"), "Did you mean 'r2plus1d_18'"),
        (lambda: create_model("i3d_rgb", widht=2), "Did you mean 'width'"),
        (lambda: create_model("r3d_18", kinds=()), "no argument 'kinds'"),
        (lambda: create_model("resnet18_3d_a", shortcut="B"), "no argument 'shortcut'"),
        (lambda: summarize("p3d_63", form="caffe"), "form='caffe': allowed are"),
        (lambda: summarize("p3d_63", wirings="ABD"), "wirings='ABD'"),
        (lambda: summarize("r2plus1d_18", mid_channels="x"), "mid_channels='x': allowed are"),
    ],
)
def test_wrong_names(call, text):
    with pytest.raises(ConfigError, match=text):
        call()


def test_entries_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS["r3d_18"].source = "elsewhere"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for model_name in SHALLOW:
        (GOLDEN / f"{model_name}.txt").write_text(facts(model_name).names)
    every = frozenset().union(*(facts(name).convolutions for name in list_models()))
    zoo_convolutions.FILE.write_text(zoo_convolutions.text_of(every))
