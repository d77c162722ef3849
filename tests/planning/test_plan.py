"""Plans of runs: cost from program text, chips, search for the largest batch, command."""

import argparse
import dataclasses
import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvideo.cli import plan as command
from jaxvideo.cli.train import overrides
from jaxvideo.planning import batch as batches
from jaxvideo.planning import plan
from jaxvideo.planning import topology as topologies
from jaxvideo.progress import console
from jaxvideo.training.chips import CHIPS, chip_of_kind, chip_of_topology, mfu
from jaxvideo.training.config import load_config, read_config
from jaxvideo.types import ConfigError, Lowering

tpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra [tpu])"
)

# Program text of the TPU compiler with every kind of operation that is counted.
PROGRAM = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: bf16[8,128]) -> f32[8,128] {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %convolution.1 = f32[8,128]{1,0:T(8,128)} convolution(%p, %p), dim_labels=bf_io->bf
}

%outer (p.1: bf16[8,128]) -> f32[8,128] {
  %p.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %fusion.9 = f32[8,128]{1,0:T(8,128)} fusion(%p.1), kind=kOutput, calls=%inner
}

%begin (p.2: f32[16,4]) -> (f32[16,4], f32[64,4]) {
  %p.2 = f32[16,4]{1,0} parameter(0)
  %all-gather.1 = f32[64,4]{1,0} all-gather(%p.2), channel_id=1, dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%beside (p.3: f32[16,4]) -> f32[8,128] {
  %p.3 = f32[16,4]{1,0} parameter(0)
  %all-gather.2 = f32[64,4]{1,0} all-gather(%p.3), channel_id=1, dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
  ROOT %multiply.2 = f32[8,128]{1,0} multiply(%p.3, %p.3)
}

%all-reduce-scatter (input: f32[128,256]) -> f32[32,256] {
  %input = f32[128,256]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.9 = f32[128,256]{1,0:T(8,128)} all-reduce(%input), channel_id=9, to_apply=%add
  ROOT %dynamic-slice.1 = f32[32,256]{1,0} dynamic-slice(%all-reduce.9), slice_sizes={32,256}
}

%body (state: (s32[], f32[10])) -> (s32[], f32[10]) {
  %state = (s32[]{:T(128)}, f32[10]{0:T(128)S(1)}, /*index=2*/f32[5]{0}) parameter(0)
  %gte = f32[10]{0:T(128)S(1)} get-tuple-element(%state), index=1
  %all-reduce.2 = f32[10]{0:T(128)S(1)} all-reduce(%gte), channel_id=2, to_apply=%add
  %fusion.3 = f32[10]{0} fusion(%all-reduce.2), kind=kLoop, calls=%beside, \
backend_config={"window_config":{"estimated_cycles":"7"}}
  ROOT %tuple = (s32[], f32[10]) tuple(%gte, %fusion.3)
}

%condition (state.1: (s32[], f32[10])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(5)
  %state.1 = (s32[]{:T(128)}, f32[10]{0:T(128)S(1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %constant.5), direction=LT
}

%cheap (p.4: f32[8]) -> f32[8] {
  ROOT %copy.4 = f32[8]{0} copy(%p.4), backend_config={"estimated_cycles":"1"}
}

%dear (p.5: f32[8]) -> f32[8] {
  ROOT %copy.5 = f32[8]{0} copy(%p.5), backend_config={"estimated_cycles":"50"}
}

ENTRY %main (a: bf16[8,128], b: f32[16,4]) -> f32[8] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%a), kind=kOutput, calls=%outer, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  %async-collective-start = (f32[16,4]{1,0}, f32[64,4]{1,0}) fusion(%b), kind=kCustom, calls=%begin
  %while.1 = (s32[]{:T(128)}, f32[10]{0}) while(%a), condition=%condition, body=%body
  %async-collective-done = f32[64,4]{1,0} fusion(%b), kind=kCustom, calls=%beside
  %collective-permute-start.1 = (bf16[8,128]{1,0}, bf16[8,128]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  %collective-permute-done.1 = bf16[8,128]{1,0} collective-permute-done(%collective-permute-start.1)
  %all-reduce.3 = (f32[20]{0:T(128)}, bf16[7,32]{1,0:T(8,128)(2,1)}) \
all-reduce(%c, %d), to_apply=%add
  %fusion.2 = f32[32,256]{1,0} fusion(%e), kind=kCustom, calls=%all-reduce-scatter
  ROOT %conditional = f32[8]{0} conditional(%i, %f, %f), branch_computations={%cheap, %dear}
}
"""


def test_program_read():
    cost = plan.read_program(PROGRAM)
    assert cost.cycles == 1000 + 5 * 7 + 50, "loops as often as they run, the dearer branch"
    assert cost.matrix_cycles == 1000
    assert cost.collectives == {
        "all-gather": (1, 64 * 4 * 4),  # started once; overlapped operations do not start it again
        "all-reduce": (5 + 1, 5 * 10 * 4 + 20 * 4 + 7 * 32 * 2),
        "collective-permute": (1, 8 * 128 * 2),
        "reduce-scatter": (1, 128 * 256 * 4),
    }
    assert cost.unknown_loops == 0


def test_loop_of_unknown_length():
    text = PROGRAM.replace("constant(5)", "parameter(1)")
    cost = plan.read_program(text)
    assert (cost.cycles, cost.unknown_loops) == (1000 + 7 + 50, 1)
    known = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    assert plan.read_program(text.replace("body=%body", known)).cycles == 1000 + 21 + 50


def mesh_of(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))


def test_collectives_of_a_compiled_program():
    """Data parallelism by hand: a gradient sum in each of five iterations, and a gather."""
    mesh = mesh_of(4)
    whole, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

    def step(w, x):
        def again(w, _):
            gradient = jax.grad(lambda w: (jnp.tanh(x @ w) ** 2).sum())(w)
            return w - gradient, None

        return jax.lax.scan(again, w, None, length=5)[0], 2 * x

    w = jax.ShapeDtypeStruct((32, 48), jnp.float32, sharding=whole)
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=rows)
    compiled = jax.jit(step, out_shardings=(whole, whole)).lower(w, x).compile()
    cost = plan.read_program(compiled.as_text() or "")
    assert cost.collectives == {
        "all-reduce": (5, 5 * 32 * 48 * 4),
        "all-gather": (1, 16 * 32 * 4),
    }
    assert cost.cycles == 0, "a CPU's compiler estimates none"
    assert cost.unknown_loops == 0


def test_chips():
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
    # Multiply-adds per cycle of one device's matrix units; each counts as two FLOPs.
    units = {
        "v2": 128**2,
        "v3": 2 * 128**2,
        "v4": 2 * 4 * 128**2,
        "v5e": 4 * 128**2,
        "v5p": 2 * 4 * 128**2,
        "v6e": 4 * 256**2,
        "tpu7x": 4 * 256**2,
    }
    clocked = {chip.name: chip for chip in CHIPS if chip.clock}
    assert clocked.keys() == units.keys()
    for name, chip in clocked.items():
        assert chip.peak / (2 * chip.clock) == pytest.approx(units[name], rel=0.01)
    assert chip_of_topology("v5e:16x16").kinds[0] == "TPU v5 lite"
    with pytest.raises(ConfigError, match=r"v9:2x2.*v5e"):
        chip_of_topology("v9:2x2")


def test_model_flops_utilization():
    # 4 x 197 TFLOP/s for half a second are 394 TFLOP; a tenth of them is needed.
    assert mfu(39.4e12, 0.5, "TPU v5 lite", 4) == pytest.approx(0.1)
    assert mfu(1e12, 0.5, "cpu", 4) is None
    assert mfu(1e12, 0.0, "NVIDIA H200", 1) is None
    assert chip_of_kind("NVIDIA A100-SXM4-40GB MIG 3g.20gb") is None, "half a GPU has no such peak"


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80e9), ("15.75GiB", 15.75 * 2**30), ("512 MiB", 2**29)]
)
def test_memory_size(text, size):
    assert topologies.memory_size(text) == size


@pytest.mark.parametrize("topology", ["80", "80XB", "hello", "v5e", "v5e:", "v5e:4x", "v5e:4x-4"])
def test_no_topology(topology):
    read = topologies.memory_size if topology[0].isdigit() else topologies.tpu_devices
    with pytest.raises(ConfigError, match=r"v5e:16x16.*80GB"):
        read(topology)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"jaxvideo\[tpu\]"):
        topologies.tpu_devices("v5e:2x2")


@pytest.mark.parametrize("most", [0, 1, 2, 7, 8, 31, 1000])
@pytest.mark.parametrize("first", [1, 6, 8, 60])
def test_largest(most, first):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= most

    found = batches.largest(fits, first)
    assert found == most if most < 64 else 0.97 * most <= found <= most
    assert len(tried) == len(set(tried)), "a compilation takes minutes: none twice"
    assert min(tried) >= 1
    assert len(tried) <= 2 + 2 * np.log2(max(most, first, 2))


def tiny(*overrides: str):
    """A network of five convolutions on 4 frames of 28 pixels, and its config."""
    values = load_config(
        "configs/c3d_ucf101.py:smoke",
        [
            "model.name=c3d_depth3",
            "model.width=0.0625",
            "preprocessing.frames=4",
            "preprocessing.size=32",
            "preprocessing.crop=28",
            *overrides,
        ],
    )
    return read_config(values)


def test_batch_keeps_the_size_of_bn_groups():
    run = tiny("model.name=c3d_bn", "model.bn_groups=4", "batch_size=24")  # 6 clips per group
    assert batches.batch_unit(run, 4) == 12
    assert batches.batch_unit(run, 1) == 6
    larger = batches.with_batch(run, 60)
    assert (larger.batch_size, larger.model["bn_groups"]) == (60, 10)
    with pytest.raises(ConfigError, match=r"64.*6 clips.*BN"):
        batches.with_batch(run, 64)
    single = tiny("model.name=c3d_bn", "model.bn_groups=1", "batch_size=24")
    assert batches.with_batch(single, 64).model["bn_groups"] == 1


@functools.cache
def tiny_plan(devices: int) -> plan.Plan:
    """Uses DIRECT convolutions, whose gradients need no other device's clips on CPUs either."""
    run = tiny()
    run = dataclasses.replace(run, model={**run.model, "lowering": Lowering.DIRECT})
    return plan.make_plan(run, 8, jax.devices()[:devices])


def test_plan_of_a_network():
    one = tiny_plan(2)
    # Channels 4, 8, 16, 16, 16 on 4 x 28 x 28, 4 x 14 x 14, 2 x 7 x 7, 1 x 4 x 4, 1 x 2 x 2;
    # then 1 x 1 x 16 into two hidden layers and 8 classes.
    layers = ((3, 4, 4 * 28**2), (4, 8, 4 * 14**2), (8, 16, 2 * 7**2), (16, 16, 16), (16, 16, 4))
    run = tiny()
    shapes = jax.eval_shape(
        lambda: plan.init_variables(
            plan.create_model(**run.model, num_classes=8), run.preprocessing, 0
        )
    )["params"]
    dense = [shapes[f"fc{i}"]["kernel"].shape for i in (6, 7, 8)]
    macs = sum(27 * a * b * n for a, b, n in layers) + sum(a * b for a, b in dense)
    assert one.model_flops == 6 * macs * run.batch_size
    assert one.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # The donated state (parameters and momentum of the same size) is an argument and a result.
    state = 2 * 4 * one.parameters
    # A frame is Y, Cb and Cr at half the resolution, and the number of its matrix.
    clips = run.batch_size // 2 * (4 * (28 * 28 * 3 // 2 + 1) + 4 + 4 + 3 * 4)
    assert one.clip_bytes == clips
    assert state + clips <= one.memory.arguments < state + clips + 100
    assert one.memory.outputs < 4096
    assert one.memory.total >= one.memory.arguments + one.memory.temporaries
    # Gradients of all parameters and a few metrics are summed over the devices.
    assert 4 * one.parameters < one.cost.collectives["all-reduce"][1] < 4 * one.parameters + 100
    assert one.step_seconds(chip_of_topology("v5e:2x2")) is None


def test_estimates():
    made = plan.Plan(
        batch=32,
        devices=4,
        kind="TPU v5 lite",
        memory=plan.Memory(1, 2, 3, 4),
        flops=0.0,
        model_flops=0,
        cost=plan.Cost(3_000_000, 10, {"all-reduce": (2, 10**8), "all-gather": (1, 10**8)}),
        parameters=0,
        clip_bytes=0,
        seconds=0.0,
    )
    v5e = chip_of_topology("v5e:2x2")
    assert made.memory.total == 10
    assert made.step_seconds(v5e) == pytest.approx(2e-3), "3 million cycles at 1.5 GHz"
    # Three quarters of 2 x 100 MB and of 100 MB are sent, at 200 GB/s.
    assert made.link_seconds(v5e) == pytest.approx(0.75 * 3e8 / 200e9)


def run_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options, others = parser.parse_known_args(["plan", *arguments])
    options.changes = overrides(others, "--")
    with console():
        return options.run(options)


@pytest.fixture
def compiled(monkeypatch):
    """Makes all commands compile one small network on two devices, to save time."""
    made = tiny_plan(2)
    monkeypatch.setattr(jax, "devices", lambda devices=jax.devices(): devices[:2])
    tried = []

    def make_plan(run, classes, devices, *, epoch_steps):
        tried.append(run.batch_size)
        growth = run.batch_size // 16
        memory = plan.Memory(10**6, 0, growth * 10**6, 0)
        return dataclasses.replace(made, batch=run.batch_size, memory=memory)

    monkeypatch.setattr(plan, "make_plan", make_plan)
    return tried


CONFIG = ("--config", "configs/c3d_ucf101.py:smoke")


def test_command(capsys, compiled):
    assert run_command(*CONFIG, "--topology", "80GB", "--dataset", "ucf101") == 0
    out = capsys.readouterr().out
    assert re.search(r"devices +2 x cpu \(80GB\), 74.51 GiB each", out)
    assert "101 classes" in out
    assert re.search(r"memory +1.91 MiB per chip, 0 % of 74.51 GiB", out)
    assert re.search(r"all-reduce +\d+ per step", out)
    assert re.search("time +no estimate", out)
    assert "train with" not in out


def test_command_of_what_does_not_fit(capsys, compiled):
    assert run_command(*CONFIG, "--topology", "1MB") == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_command_for_the_largest_batch(capsys, compiled):
    """1 MB plus 1 MB per 16 clips: 127 clips fit in 8 MB, so two devices take 126."""
    assert run_command(*CONFIG, "--topology", "8MB", "--largest") == 0
    captured = capsys.readouterr()
    assert max(batch for batch in compiled if 1 + batch // 16 <= 8) == 126
    assert re.search(r"batch +126 clips per step, 63 per chip", captured.out)
    assert "63 clips per chip: 7.63 MiB, fits" in captured.err
    assert "64 clips per chip: 8.58 MiB, does not fit" in captured.err
    assert "--batch_size=126" in captured.out
    assert "adapt optim.lr and epoch_steps, which are for 16 clips" in captured.out
    assert run_command(*CONFIG, "--topology", "0.5MB", "--largest") == 1
    assert "DOES NOT FIT with any batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch_size=15",), r"batch_size=15.*2 devices.*--batch 1 for 2 clips"),
        (("--parallel.split=3", "--largest"), r"parallel.split=3.*the 2 devices"),
        (("--batch", "0"), "--batch=0"),
        (("--dataset", "kinetics"), "kinetics400"),
        (("--optim.lrr=1",), "optim.lr'"),
        (("--optim.lr=fast",), "must be a number"),
        (("--optim",), "equals sign"),
        (("--optim=1",), "section"),
        (("--augment.flip=1",), "must be true or false"),
        (("--batch_size=True",), "must be an integer"),
    ],
)
def test_bad_input(arguments, message, compiled):
    with pytest.raises(ConfigError, match=message):
        run_command(*CONFIG, "--topology", "80GB", *arguments)


def test_no_config():
    with pytest.raises(ConfigError, match="neither a file"):
        load_config("configs/c4d.py")
    with pytest.raises(ConfigError, match="has no variant 'smok'"):
        load_config("configs/i3d_rgb.py:smok")


def test_overrides():
    values = load_config(
        "configs/i3d_rgb.py", ["optim.lr=1", "optim.milestones=(1.0, 2.0)", "model.width=2"]
    )
    assert values["optim"]["lr"] == 1
    assert values["optim"]["milestones"] == [1.0, 2.0]
    assert values["model"]["width"] == 2
    assert values["model"]["name"] == "i3d_rgb"
    values = load_config("configs/i3d_rgb.py", ["preprocessing.fps=12.5"])
    assert values["preprocessing"]["fps"] == 12.5


@pytest.fixture
def alone(monkeypatch):
    for name, value in command.ALONE.items():
        monkeypatch.setenv(name, value)


@tpu
@pytest.mark.parametrize(
    ("topology", "count", "kind"),
    [
        ("v5e:1x1", 1, "TPU v5 lite"),
        ("v5e:16x16", 256, "TPU v5 lite"),
        ("v4:2x2x1", 4, "TPU v4"),
        ("v5p:2x2x2", 8, "TPU v5"),
        ("v6e:4x4", 16, "TPU v6 lite"),
        ("tpu7x:2x2x1", 8, "TPU7x"),
    ],
)
def test_topologies(alone, topology, count, kind):
    devices, chip = topologies.tpu_devices(topology)
    assert (len(devices), devices[0].device_kind) == (count, kind)
    assert kind in chip.kinds
    with pytest.raises(ConfigError, match="allowed are"):
        topologies.tpu_devices("v5e:3x7")


@tpu
def test_cycles_of_a_loop(alone):
    """A bf16 product of 2048 x 2048, five times: at least the cycles of fully used matrix
    units, and less than twice as many."""
    devices, _ = topologies.tpu_devices("v5e:2x2")
    here = NamedSharding(Mesh(np.array(devices[:1]), ("data",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((2048, 2048), jnp.bfloat16, sharding=here)

    def five(x):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ x), None), x, None, length=5)[0]

    compiled = jax.jit(five).trace(x).lower(lowering_platforms=("tpu",)).compile()
    cost = plan.read_program(compiled.as_text() or "")
    least = 5 * 2048**3 / (4 * 128**2)
    assert least <= cost.matrix_cycles < 2 * least
    assert cost.unknown_loops == 0
    assert cost.collectives == {}
