"""Every network of the registry: counts, shapes, names. Nothing is run."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxvideo import create_model, list_models, models
from jaxvideo.models import MODELS, arguments_for, contract, in_head
from jaxvideo.models.resnet3d import mid_width
from jaxvideo.models.summary import Summary, Trace, summarize, summary_of, trace, trace_of_clip
from jaxvideo.pretrained import sources_of
from jaxvideo.types import ConfigError
from jaxvideo.weights import tree
from tests.layers import zoo_convolutions
from tests.marks import some
from tests.models.counts import COUNTS

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


def check_counts(summary, parameters, stored, macs):
    assert summary.parameters == parameters
    assert stored is None or summary.parameters + summary.statistics == stored
    if macs is not None and macs % 10_000 == 0:  # rounded there
        assert abs(summary.macs - macs) <= max(1e-3 * macs, 10_000)
    else:
        assert macs is None or summary.macs == macs


def is_own(row) -> bool:
    """True if a row of COUNTS is for the network's default clip and arguments."""
    name, arguments, frames, *_ = row
    return not arguments and frames == MODELS[name].preprocessing.frames


# Deeper networks have the same names as shallower ones.
SHALLOW = [n for n in list_models() if not re.search("101|131|152|199|200", n)]


#: The file that `jaxvideo models` prints.
TABLE = Path(models.__file__).parent / "table.json"


@functools.cache
def table() -> dict:
    return json.loads(TABLE.read_text())


def row_of(name: str) -> dict:
    """The row of `jaxvideo models` for a network, as `jaxvideo/models/table.json` holds it."""
    summary = facts(name).summary
    return {
        "parameters": summary.parameters,
        "macs": summary.macs,
        "clip": list(summary.input_shape),
        "endpoints": list(summary.endpoints),
        "paper": MODELS[name].source,
        "weights": sources_of(name),
    }


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
    assert table()[name] == row_of(name), "run `python -m tests.models.test_zoo`"
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
        maps = [end.shape for end in found.trace.endpoints.values() if len(end.shape) >= 5]
        return max(shape[-1] for shape in maps if shape[-2] > 1)

    assert create_model(name).width == 1.0
    assert widest(facts(name)) == 2 * widest(facts(name, width=0.5))


@pytest.mark.full
@pytest.mark.parametrize("row", [row for row in COUNTS if not is_own(row)], ids=str)
def test_counts_of_other_clips_and_arguments(row):
    name, arguments, frames, *counts = row
    check_counts(summarize(name, frames=frames, **arguments), *counts)


# 10 layers of the other seven kinds: no library has them; the 18-layer networks share their code.
_UNCOUNTED = {f"{kind}_10" for kind in ("f_r2d", "mc2", "mc4", "mc5", "rmc2", "rmc4", "rmc5")}


def test_every_model_is_counted():
    assert {row[0] for row in COUNTS} | _UNCOUNTED == set(list_models())


# L / frames after conv1, conv2_x, ..., conv5_x for a clip of L frames; R2D has one frame.
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
    """torchvision halves time in every stage; VMZ's Caffe2 code does not for short clips."""
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


def test_mid_widths_of_the_paper():
    pairs = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert [mid_width(*p) for p in pairs] == [144, 230, 288, 460, 576, 921, 1152]


@pytest.mark.full
def test_the_convolutions_of_the_zoo_are_kept():
    """The tests of lowerings use them. To regenerate: python -m tests.models.test_zoo"""
    found = frozenset().union(*(facts(name).convolutions for name in list_models()))
    assert zoo_convolutions.FILE.read_text() == zoo_convolutions.text_of(found)


@pytest.mark.full
@pytest.mark.parametrize("name", SHALLOW)
def test_trains_small_and_in_bfloat16(name):
    """Shapes and dtypes of a training pass, at a small size."""
    model = create_model(name, num_classes=7, dtype=jnp.bfloat16)
    preprocessing = MODELS[name].preprocessing
    # The numbers of frames of segments and of two-stream networks are fixed.
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
    # Some return several predictions per clip in training.
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
    rows = {model_name: row_of(model_name) for model_name in MODELS}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    TABLE.write_text(f"{{\n{lines}\n}}\n")
    every = frozenset().union(*(facts(name).convolutions for name in list_models()))
    zoo_convolutions.FILE.write_text(zoo_convolutions.text_of(every))
