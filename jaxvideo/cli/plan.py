"""`plan`: what a run will need on chips that nobody has rented yet."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from jaxvideo.cli.shared import add_overrides
from jaxvideo.precision import resolve_dtype
from jaxvideo.types import ConfigError

# Before JAX and libtpu start: a machine with TPUs, or in a cloud, would be asked about them, and
# libtpu would complain that another one does not answer, or that another plan is being made.
ALONE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def add(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="memory, speed and largest batch of a config on a TPU pod, without the pod",
        description="Compiles a config's training step for chips that are not there (extra "
        "[tpu]; no TPU is needed). Speeds are the compiler's estimates. Any value of the config "
        "can be overridden: --model.dtype=bfloat16.",
    )
    plan.add_argument("--config", required=True, metavar="FILE", help="configs/NAME.py[:ARGUMENT]")
    plan.add_argument(
        "--topology",
        required=True,
        help="a TPU slice, as v5e:16x16; or a memory size, as 80GB, for the device at hand",
    )
    plan.add_argument("--batch", type=int, metavar="PER_CHIP", help="clips (default: the config's)")
    plan.add_argument(
        "--largest",
        action="store_true",
        help="the largest batch that fits, to 3 %%; compiles many times",
    )
    data = plan.add_mutually_exclusive_group()
    data.add_argument("--dataset", help="e.g. kinetics400: its classes, and epochs an hour")
    data.add_argument("--dataset-clips", type=int, metavar="N", help="training videos of your own")
    plan.add_argument("--classes", type=int, help="default: the data set's, or 400")
    add_overrides(plan)
    plan.set_defaults(run=_plan, compiles=True)


def _plan(options: argparse.Namespace) -> int:
    from jaxvideo.training.config import load_config, read_config

    _check(options)
    size = _settle(options.topology)
    from jaxvideo.training import plan as planning
    from jaxvideo.training.parallel import make_layout

    run = read_config(load_config(options.config, options.changes))
    classes, videos, dataset = _data(options, run)
    if size is None:
        devices, chip = planning.tpu_devices(options.topology)
        limit, where = chip.memory, options.topology
    else:
        import jax

        from jaxvideo.training.chips import chip_of_kind

        devices = jax.devices()
        chip, limit, where = chip_of_kind(devices[0].device_kind), size, options.topology
    dtype = resolve_dtype(run.model.get("dtype", "float32"), devices[0].platform)
    run = dataclasses.replace(run, model={**run.model, "dtype": dtype})
    count = len(devices)
    make_layout(run.parallel, {}, devices)  # which says if they cannot be divided so
    _say(f"{'config':<12} {options.config}: {run.model['name']}, {_clip(run)}, {classes} classes")
    _say(f"{'devices':<12} {count} x {devices[0].device_kind} ({where}), {_size(limit)} each")
    asked = run
    if options.batch:
        run = planning.with_batch(run, options.batch * count)

    def compile_one(run):
        steps = run.epoch_steps or (videos or 0) * run.augment.views_per_video // run.batch_size
        return planning.make_plan(run, classes, devices, epoch_steps=steps or 1000)

    if options.largest:
        found = _largest(asked, run.batch_size, count, limit, size is not None, compile_one)
        if found is None:
            _say(f"{'result':<12} DOES NOT FIT with any batch: parallel.remat, parallel.split, or")
            _say(f"{'':<12} more chips for parallel.fsdp")
            return 1
        run, result = found
    else:
        _hint(run, count)
        print(f"compiling {run.batch_size} clips for {count} devices ...", file=sys.stderr)
        try:
            result = compile_one(run)
        except planning.DoesNotFit as error:
            _say(f"{'batch':<12} {_batch(run, count)}")
            _say(f"{'result':<12} DOES NOT FIT: {error}; --largest finds the batch that does")
            return 1
    fits = size is None or result.memory.total <= limit
    for name, text in _lines(run, result, chip, limit, videos, dataset, fits):
        _say(f"{name:<12} {text}")
    if flags := _flags(asked, run, count):
        _say(f"{'train with':<12} {' '.join(flags)}")
    if run.batch_size != asked.batch_size:
        _say(f"{'':<12} optim.lr and epoch_steps are the config's, for {asked.batch_size} clips")
    return 0 if fits else 1


def _check(options: argparse.Namespace) -> None:
    for name in ("batch", "dataset_clips", "classes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}={value}: must be at least 1")


def _settle(topology: str) -> int | None:
    """The memory size that was asked for; None for a TPU, of which JAX then looks for none."""
    import os

    if topology[:1].isdigit():
        from jaxvideo.training.plan import memory_size

        return memory_size(topology)
    os.environ.update(ALONE)
    import jax

    jax.config.update("jax_platforms", "cpu")  # if somebody else has imported it before
    return None


def _data(options: argparse.Namespace, run) -> tuple[int, int | None, str]:
    """Classes, training videos if known, and the data set's name."""
    from pathlib import Path

    from jaxvideo.training.plan import DATASETS

    if options.dataset and options.dataset not in DATASETS:
        raise ConfigError(
            f"--dataset={options.dataset}: known are {', '.join(DATASETS)}; or --dataset-clips=N"
        )
    name = options.dataset or Path(run.data.root).name
    if run.data.source == "motion" and not options.dataset:
        from jaxvideo.data.motion import CLASSES

        classes, videos, name = len(CLASSES), run.data.train_videos, "the motion data"
    else:
        classes, videos = DATASETS.get(name, (400, None))
    if options.dataset_clips:
        videos, name = options.dataset_clips, "your data"
    return options.classes or classes, videos, name


def _largest(asked, first: int, count: int, limit: int, compare: bool, compile_one):
    """(run, plan) of the largest batch that fits; None if none does."""
    from jaxvideo.training.log import duration
    from jaxvideo.training.plan import DoesNotFit, batch_unit, largest, with_batch

    unit, plans = batch_unit(asked, count), {}

    def fits(units: int) -> bool:
        run = with_batch(asked, units * unit)
        what = f"  {run.batch_size / count:g} clips per chip:"
        try:
            plan = compile_one(run)
        except DoesNotFit as error:
            print(f"{what} does not fit ({error})", file=sys.stderr, flush=True)
            return False
        fine = not compare or plan.memory.total <= limit
        said = "fits" if fine else "does not fit"
        text = f"{_size(plan.memory.total)}, {said}, compiled in {duration(plan.seconds)}"
        print(f"{what} {text}", file=sys.stderr, flush=True)
        plans[units] = run, plan
        return fine

    return plans.get(largest(fits, max(first // unit, 1)))


def _hint(run, count: int) -> None:
    """A batch that the chips do not divide, with what to do about it here."""
    from jaxvideo.training.plan import batch_unit

    groups = count // run.parallel.split
    if run.batch_size % groups:
        unit = batch_unit(run, count)
        raise ConfigError(
            f"config.batch_size={run.batch_size}: must be a multiple of the {groups} devices"
            f"{f' (groups of {run.parallel.split})' * (groups < count)}. Here, "
            f"--batch {max(unit // count, 1)} for {max(unit, count)} clips a step"
        )


def _lines(run, plan, chip, limit: int, videos: int | None, dataset: str, fits: bool):
    from jaxvideo.training.log import duration

    memory, cost = plan.memory, plan.cost
    yield "batch", _batch(run, plan.devices)
    yield "compiled", f"in {duration(plan.seconds)}"
    yield (
        "memory",
        f"{_size(memory.total)} per chip, {100 * memory.total / limit:.0f} % of {_size(limit)}"
        f"{'' if fits else ': DOES NOT FIT'}",
    )
    yield (
        "",
        f"arguments {_size(memory.arguments)} (of them the batch {_size(plan.clip_bytes)}, and "
        f"the next one comes beside it), outputs {_size(memory.outputs)}, temporaries "
        f"{_size(memory.temporaries)}, program {_size(memory.program)}",
    )
    if plan.kind.startswith("NVIDIA") and memory.total > 0.75 * limit:
        yield "", "JAX takes 75 % of a GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise"
    yield "parameters", f"{plan.parameters:,}"
    yield (
        "FLOPs",
        f"{plan.model_flops:.3g} a step for the network (2 x 3 x multiply-adds x clips); "
        f"{plan.flops:.3g} in the program",
    )
    for kind, (number, size) in cost.collectives.items():
        yield kind, f"{number} a step, {_size(size)} per chip"
    if not cost.collectives:
        yield "collectives", "none"
    if seconds := plan.link_seconds(chip) if chip else None:
        yield (
            "",
            f"at least {1e3 * seconds:.2g} ms at the {chip.link / 1e9:g} GB/s of a chip's links",
        )
    if cost.unknown_loops:
        yield "", f"{cost.unknown_loops} loops of unknown length are counted once, here and below"
    seconds = plan.step_seconds(chip) if chip else None
    if seconds is None:
        yield "time", "no estimate: of the compilers, only the TPU's makes one"
        return
    yield (
        "time",
        f"ESTIMATE {cost.cycles / 1e6:,.2f} Mcycles a step, {1e3 * seconds:,.1f} ms at "
        f"{chip.clock / 1e9:g} GHz: the compiler's, without collectives and waiting for data",
    )
    yield "", f"ESTIMATE {100 * cost.matrix_cycles / cost.cycles:.0f} % of it in matrix products"
    rate = plan.batch / seconds
    used = plan.model_flops / (seconds * chip.peak * plan.devices)
    yield (
        "speed",
        f"ESTIMATE {rate:,.0f} clips/s, {rate / plan.devices:,.0f} per chip, "
        f"{100 * used:.1f} % model FLOPs utilization",
    )
    epoch = run.epoch_steps * plan.batch
    if videos is not None:
        clips = videos * run.augment.views_per_video
        yield "epochs", f"ESTIMATE {3600 * rate / clips:,.1f} an hour of {dataset}, {clips:,} clips"
        epoch = epoch or clips
    if epoch:
        text = f"ESTIMATE {duration(run.epochs * epoch / rate)} for the {run.epochs:g} epochs"
        yield "run", f"{text} of {epoch:,} clips that the config asks for"
    else:
        yield "run", "how long: --dataset NAME or --dataset-clips N"


def _flags(asked, run, count: int) -> list[str]:
    """What `train.py` must be told, that the config does not say."""
    flags = []
    if run.batch_size != asked.batch_size:
        flags.append(f"--config.batch_size={run.batch_size}")
    if run.model.get("bn_groups") != asked.model.get("bn_groups"):
        flags.append(f"--config.model.bn_groups={run.model['bn_groups']}")
    groups = count // run.parallel.split
    if run.eval_batch_size % groups:
        flags.append(f"--config.eval_batch_size={-(-run.eval_batch_size // groups) * groups}")
    return flags


def _batch(run, count: int) -> str:
    groups = run.model.get("bn_groups", 1)
    bn = f", {groups} BN groups of {run.batch_size // groups}" if groups > 1 else ""
    return f"{run.batch_size} clips a step, {run.batch_size / count:g} per chip{bn}"


def _clip(run) -> str:
    shape = " x ".join(map(str, run.preprocessing.shape))
    return f"{shape}, {run.model.get('dtype', 'float32')}"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _say(line: str) -> None:
    print(line, flush=True)
