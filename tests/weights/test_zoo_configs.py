"""Clips and test protocols of weights by name, against the configs of their publishers.

The values were read in the repositories that the column `evidence` of the table names, for instance
`SampleFrames(clip_len=8, frame_interval=8)` as 8 frames, stride 8.
"""

import dataclasses

import pytest

from jaxvideo.models import model_entry
from jaxvideo.types import Protocol
from jaxvideo.weights import zoo
from jaxvideo.weights.sources import find_source

IMAGENET = (123.675, 58.395)  # first channel, for pixels in [0, 255]
UNIT = (0.485, 0.229)  # the same for pixels in [0, 1]
VMZ = (110.2008, 58.14765)
PYSLOWFAST = (0.45, 0.225)

# frames, stride, segments; fps, spacing; short side, width (0: aspect kept), crop; statistics.
CLIPS = {
    "mmaction2": {
        "tsn_resnet50_rgb k400_mmaction2_1x1x3": (3, 1, 3, None, "stride", 256, 0, 224, IMAGENET),
        "tsn_resnet50_rgb k400_mmaction2_dense": (5, 1, 5, None, "stride", 256, 0, 224, IMAGENET),
        "tsn_resnet50_rgb k400_mmaction2_c2d": (8, 8, 1, None, "stride", 224, 0, 224, IMAGENET),
        "tsn_resnet101_rgb k400_mmaction2_c2d": (8, 8, 1, None, "stride", 224, 0, 224, IMAGENET),
        "tsn_resnet101_rgb mmit_mmaction2": (5, 1, 5, None, "stride", 256, 0, 224, IMAGENET),
        "tsn_resnet50_flow k400_mmaction2_8": (40, 1, 8, None, "stride", 256, 0, 224, (128, 128)),
        "c2d_r50 k400_mmaction2_8x8": (8, 8, 1, None, "stride", 224, 0, 224, IMAGENET),
        "c2d_r50 k400_mmaction2_16x4": (16, 4, 1, None, "stride", 224, 0, 224, IMAGENET),
        "slow_4x16_r50 k400_mmaction2": (4, 16, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slow_r50 k710_mmaction2_imagenet": (8, 8, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slow_r50 jester_mmaction2": (8, 4, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slow_r50 k400-ucf101_mmaction2": (8, 4, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slow_r50_nl k400_mmaction2_4x16": (4, 16, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slow_r50_nl k400_mmaction2_8x8": (8, 8, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slowfast_4x16_r50 k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, IMAGENET),
        "slowfast_r101 k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, IMAGENET),
        "i3d_r50_nl k400_mmaction2_gaussian": (32, 2, 1, None, "stride", 256, 0, 224, IMAGENET),
        "csn_r152 ig65m-k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, IMAGENET),
        "csn_r152 k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, VMZ),
        "csn_r152 sports1m-k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, VMZ),
        "ip_csn_r152 ig65m-k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, IMAGENET),
        "ip_csn_r152 k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, VMZ),
        "ip_csn_r152 sports1m-k400_mmaction2": (32, 2, 1, None, "stride", 256, 0, 224, VMZ),
        "x3d_s k400_mmaction2": (13, 6, 1, 30, "linspace", 182, 0, 160, (114.75, 57.38)),
        "x3d_m k400_mmaction2": (16, 5, 1, 30, "linspace", 256, 0, 224, (114.75, 57.38)),
        "r2plus1d_34_mmaction2 k400_mmaction2_32x2": (
            *(32, 2, 1, None, "stride", 256, 0, 224, IMAGENET),
        ),
        "c3d sports1m-ucf101_mmaction2_v0": (16, 1, 1, None, "stride", 128, 171, 112, (104, 1)),
        "c3d sports1m-ucf101_mmaction2_v1": (16, 1, 1, None, "stride", 128, 0, 112, (104, 1)),
    },
    # KEEP_ASPECT_RATIO is True for three networks; 340 x 256 or 171 x 128 otherwise.
    "gluoncv": {
        "tsn_resnet50_rgb k400_gluoncv": (1, 1, 1, None, "stride", 256, 340, 224, UNIT),
        "i3d_r50 k400_gluoncv": (32, 2, 1, None, "stride", 256, 340, 224, UNIT),
        "i3d_r50 ssv2_gluoncv": (16, 2, 1, None, "stride", 256, 340, 224, UNIT),
        "i3d_r50_nl k400_gluoncv_nl10": (32, 2, 1, None, "stride", 256, 340, 224, UNIT),
        "slow_r50 k400_gluoncv_16x4": (16, 4, 1, None, "stride", 256, 340, 224, UNIT),
        "slow_r101 k700_gluoncv_16x4": (16, 4, 1, None, "stride", 256, 0, 224, UNIT),
        "slowfast_r50 ssv2_gluoncv_16x8": (64, 2, 1, None, "stride", 256, 340, 224, UNIT),
        "r2plus1d_18 k400_gluoncv": (16, 2, 1, None, "stride", 128, 171, 112, UNIT),
        "r2plus1d_152 ig65m-k400_gluoncv": (32, 2, 1, None, "stride", 128, 0, 112, UNIT),
        "csn_r152 ig65m-k400_gluoncv": (32, 2, 1, None, "stride", 256, 0, 224, UNIT),
    },
    "pyslowfast": {
        "x3d_xs k400_pyslowfast": (4, 12, 1, 30, "linspace", 182, 0, 160, PYSLOWFAST),
        "x3d_l k400_pyslowfast": (16, 5, 1, 30, "linspace", 356, 0, 312, PYSLOWFAST),
        "slow_4x16_r50 k400_pyslowfast-caffe2": (
            *(4, 16, 1, 30, "linspace", 256, 0, 224, PYSLOWFAST),
        ),
        "i3d_r50 k400_pyslowfast-caffe2": (8, 8, 1, 30, "linspace", 256, 0, 224, PYSLOWFAST),
    },
    "pytorchvideo": {
        "csn_r101 k400_pytorchvideo": (32, 2, 1, 30, "linspace", 256, 0, 224, PYSLOWFAST),
        "r2plus1d_r50 k400_pytorchvideo": (16, 4, 1, 30, "linspace", 256, 0, 224, PYSLOWFAST),
        "slowfast_16x8_r101_50_50 k400_pytorchvideo": (
            *(64, 2, 1, 30, "linspace", 256, 0, 224, PYSLOWFAST),
        ),
        # The whole video, one frame of each part.
        "slow_r50 k400-ssv2_pytorchvideo": (8, 1, 8, None, "stride", 256, 0, 224, PYSLOWFAST),
        "slowfast_r50 k400-ssv2_pytorchvideo": (
            *(32, 1, 32, None, "stride", 256, 0, 224, PYSLOWFAST),
        ),
        # The frames of Charades_v1_rgb.tar, at 24 fps.
        "slow_r50 k400-charades_pytorchvideo": (8, 8, 1, 24, "stride", 256, 0, 224, PYSLOWFAST),
    },
}
SHORT = {"mmaction2": "loop", "gluoncv": "hold", "pyslowfast": "hold", "pytorchvideo": "hold"}

# clips, starts, aggregation; frames and segments of a test clip (0: those of the training).
PROTOCOLS = {
    "tsn_resnet50_rgb k400_mmaction2_1x1x8": (25, "centers", "logits", 1, 1),
    "tsn_resnet50_flow k400_mmaction2_3": (25, "centers", "logits", 5, 1),
    "tsn_resnet50_rgb mit_mmaction2": (1, "ends", "logits", 0, 0),
    "tsn_resnet101_rgb mmit_mmaction2": (1, "ends", "sigmoid", 0, 0),
    "tsn_resnet50_rgb k400_mmaction2_c2d": (10, "ends", "logits", 0, 0),
    "slow_r50 k400_mmaction2": (10, "ends", "softmax", 0, 0),
    "slow_r50 k600_mmaction2": (10, "centers", "softmax", 0, 0),
    "i3d_r50 k400_mmaction2_dense": (10, "dense", "softmax", 0, 0),
    "c3d sports1m-ucf101_mmaction2_v0": (10, "centers", "logits", 0, 0),
    "c3d sports1m-ucf101_mmaction2_v1": (10, "ends", "softmax", 0, 0),
    "tsn_resnet50_rgb ssv2_gluoncv": (8, "ends", "softmax", 0, 0),
    "i3d_r50 ssv2_gluoncv": (2, "ends", "softmax", 0, 0),
    "slowfast_r50 k400_pyslowfast-caffe2": (10, "parts", "softmax", 0, 0),
    "x3d_m k400_pyslowfast": (10, "parts", "softmax", 0, 0),
    "csn_r101 k400_pytorchvideo": (10, "parts", "softmax", 0, 0),
    "slowfast_r50 k400-ssv2_pytorchvideo": (1, "ends", "softmax", 0, 0),
    "slowfast_r50 k400-charades_pytorchvideo": (10, "parts", "sigmoid", 0, 0),
}


def named(name):
    return next(row for row in zoo.table() if row.name == name)


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library in CLIPS for name in CLIPS[library]]
)
def test_clips(library, name):
    row = named(name)
    source = find_source(row.source, row.network)
    p = dataclasses.replace(model_entry(row.network).preprocessing, **source.preprocessing)
    p = dataclasses.replace(p, **row.preprocessing)
    found = (p.frames, p.stride, p.segments, p.fps, p.spacing, p.size, p.width, p.crop)
    *expected, statistics = CLIPS[library][name]
    assert found == tuple(expected)
    assert (p.mean[0], p.std[0]) == statistics
    assert p.order == "RGB"
    assert p.range[1] == (255.0 if p.mean[0] > 1 else 1.0)
    # Of one frame per segment nothing is missing.
    assert p.short == SHORT[library] or p.frames == p.segments


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols(name):
    test = Protocol(**named(name).test)
    found = (test.clips, test.starts, test.aggregation, test.frames, test.segments)
    assert found == PROTOCOLS[name]


def test_terms_name_every_data_set():
    row = named("slow_r50 k400-hmdb51_mmaction2")
    assert row.data == ("Kinetics-400", "HMDB51")
    assert "HMDB51: CC BY 4.0" in row.terms
    assert "Kinetics: CC BY 4.0 by its page" in row.terms
    unknown = named("slow_r50 k400-ucf101_mmaction2")
    assert unknown.terms.endswith("UCF101: terms not known")


def test_files_with_the_same_digits_are_not_checked():
    """Two files whose published names end in the same digits have no hash."""
    digits = "df42dc84"
    rows = [row for row in zoo.table() if digits in row.files[0].name]
    assert [row.network for row in rows] == ["slow_r50", "slow_r50_nl"]
    assert not any(row.files[0].hash for row in rows)
    hashes = [file.hash for row in zoo.table() for file in row.files if file.hash]
    assert len(set(hashes)) == len(hashes)
