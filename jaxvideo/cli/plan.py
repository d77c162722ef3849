"""`plan`: resource estimates of a training for other devices."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.shared import (
    Column,
    add_command,
    add_formats,
    add_overrides,
    say,
    show_table,
)
from jaxvideo.precision import resolve_dtype
from jaxvideo.types import ConfigError, UsageError

if TYPE_CHECKING:
    from jaxvideo.planning.plan import Plan
    from jaxvideo.training.chips import Chip

# Set before JAX and libtpu start. Otherwise libtpu would query the metadata server, wait for
# local TPUs, and complain about a second process.
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
    command = add_command(
        commands,
        "plan",
        _plan,
        "estimate memory, speed and the largest batch of a training on a TPU slice",
        "Compiles the training step of a config for devices that need not exist (extra [tpu]). "
        "Memory is exact; speeds are the compiler's estimates. Exit status 1 if it does not fit. "
        "Any value of the config can be overridden: --model.dtype=bfloat16.",
        compiles=True,
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="config file, configs/NAME.py[:ARGUMENT]"
    )
    command.add_argument(
        "--topology",
        required=True,
        help="TPU slice, such as v5e:16x16; or a memory size, such as 80GB, to compile for the "
        "local device",
    )
    command.add_argument(
        "--batch", type=int, metavar="N", help="clips per chip (default: that of the config)"
    )
    command.add_argument(
        "--largest",
        action="store_true",
        help="search for the largest batch that fits, within 3 %%; compiles many times",
    )
    data = command.add_mutually_exclusive_group()
    data.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set, such as kinetics400, for the number of classes and the epochs per hour",
    )
    data.add_argument(
        "--dataset-clips", type=int, metavar="N", help="number of training videos of your data set"
    )
    command.add_argument(
        "--classes", type=int, metavar="N", help="number of classes (default: --dataset's, or 400)"
    )
    add_overrides(command)
    add_formats(command, "lines")


def _plan(options: argparse.Namespace) -> int:
    from jaxvideo.training.config import load_config, read_config

    _check(options)
    size = _prepare(options.topology)
    from jaxvideo.planning import batch, topology
    from jaxvideo.planning.describe import (
        batch_text,
        clip_text,
        plan_lines,
        size_text,
        training_flags,
    )
    from jaxvideo.planning.plan import DoesNotFit, make_plan
    from jaxvideo.progress import LOG
    from jaxvideo.training.parallel import make_layout

    rows: list[tuple[str, str]] = []

    def line(label: str, text: str) -> None:
        rows.append((label or rows[-1][0], text))
        say(options, f"{label:<12} {text}")

    def end(*, fits: bool, plan: Plan | None = None) -> int:
        if options.json or options.csv:
            columns = [Column("name"), Column("value")]
            show_table(options, columns, rows, name="lines", facts=_facts(fits, plan, chip, limit))
        return 0 if fits else 1

    run = read_config(load_config(options.config, options.changes))
    classes, videos, dataset = _data(options, run)
    if size is None:
        devices, chip = topology.tpu_devices(options.topology)
        limit = chip.memory
    else:
        import jax

        from jaxvideo.training.chips import chip_of_kind

        devices = jax.devices()
        chip, limit = chip_of_kind(devices[0].device_kind), size
    dtype = resolve_dtype(run.model.get("dtype", "float32"), devices[0].platform)
    run = dataclasses.replace(run, model={**run.model, "dtype": dtype})
    count = len(devices)
    make_layout(run.parallel, {}, devices)  # raises if the devices cannot be divided this way
    line("config", f"{options.config}: {run.model['name']}, {clip_text(run)}, {classes} classes")
    kind = devices[0].device_kind
    line("devices", f"{count} x {kind} ({options.topology}), {size_text(limit)} each")
    asked = run
    if options.batch:
        run = batch.with_batch(run, options.batch * count)

    def compile_one(run):
        steps = run.epoch_steps or (videos or 0) * run.augment.views_per_video // run.batch_size
        return make_plan(run, classes, devices, epoch_steps=steps or 1000)

    if options.largest:
        found = _largest(asked, run.batch_size, count, limit, size is not None, compile_one)
        if found is None:
            line("result", "DOES NOT FIT with any batch. Set parallel.remat or parallel.split, or")
            line("", "use more chips with parallel.fsdp")
            return end(fits=False)
        run, result = found
    else:
        _check_batch(run, count)
        LOG.info(f"compiling {run.batch_size} clips for {count} devices ...")
        try:
            result = compile_one(run)
        except DoesNotFit as error:
            line("batch", batch_text(run, count))
            line("result", f"DOES NOT FIT: {error}. --largest searches for a batch that does")
            return end(fits=False)
    fits = size is None or result.memory.total <= limit
    for name, text in plan_lines(run, result, chip, limit, videos, dataset, fits):
        line(name, text)
    if flags := training_flags(asked, run, count):
        line("train with", " ".join(flags))
    if run.batch_size != asked.batch_size:
        line("", f"adapt optim.lr and epoch_steps, which are for {asked.batch_size} clips")
    return end(fits=fits, plan=result)


def _facts(fits: bool, plan: Plan | None, chip: Chip | None, limit: int | None) -> dict[str, Any]:
    """Returns the numbers of a plan for JSON; memory in bytes per device."""
    facts: dict[str, Any] = {"fits": fits, "memory_limit": limit}
    if plan is None:
        return facts
    seconds = plan.step_seconds(chip) if chip else None
    return facts | {
        "batch_size": plan.batch,
        "devices": plan.devices,
        "device_kind": plan.kind,
        "memory": {**dataclasses.asdict(plan.memory), "total": plan.memory.total},
        "parameters": plan.parameters,
        "model_flops": plan.model_flops,
        "step_seconds": seconds,
        "clips_per_second": plan.batch / seconds if seconds else None,
    }


def _check(options: argparse.Namespace) -> None:
    for name in ("batch", "dataset_clips", "classes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}={value}: must be at least 1")


def _prepare(topology: str) -> int | None:
    """Returns a memory size in bytes; for a TPU topology sets up JAX and returns None."""
    import os

    if topology[:1].isdigit():
        from jaxvideo.planning.topology import memory_size

        return memory_size(topology)
    os.environ.update(ALONE)
    import jax

    jax.config.update("jax_platforms", "cpu")  # JAX may have been imported before
    return None


def _data(options: argparse.Namespace, run) -> tuple[int, int | None, str]:
    """Returns the number of classes, of training videos if known, and the name of the data set."""
    from pathlib import Path

    from jaxvideo.planning.plan import DATASETS

    if options.dataset and options.dataset not in DATASETS:
        raise UsageError(
            f"--dataset={options.dataset}: known are {', '.join(DATASETS)}; for other data sets "
            "pass --dataset-clips=N"
        )
    name = options.dataset or Path(run.data.root).name
    if run.data.source == "motion" and not options.dataset:
        from jaxvideo.data.motion.spec import CLASSES

        classes, videos, name = len(CLASSES), run.data.train_videos, "the motion data"
    else:
        classes, videos = DATASETS.get(name, (400, None))
    if options.dataset_clips:
        videos, name = options.dataset_clips, "your data"
    return options.classes or classes, videos, name


def _largest(asked, first: int, count: int, limit: int, compare: bool, compile_one):
    """Returns (run, plan) of the largest batch that fits; None if none does."""
    from jaxvideo.planning.batch import batch_unit, largest, with_batch
    from jaxvideo.planning.describe import size_text
    from jaxvideo.planning.plan import DoesNotFit
    from jaxvideo.progress import LOG, duration

    unit, plans = batch_unit(asked, count), {}

    def fits(units: int) -> bool:
        run = with_batch(asked, units * unit)
        what = f"  {run.batch_size / count:g} clips per chip:"
        try:
            plan = compile_one(run)
        except DoesNotFit as error:
            LOG.info(f"{what} does not fit ({error})")
            return False
        fine = not compare or plan.memory.total <= limit
        verdict = "fits" if fine else "does not fit"
        size = size_text(plan.memory.total)
        LOG.info(f"{what} {size}, {verdict}, compiled in {duration(plan.seconds)}")
        plans[units] = run, plan
        return fine

    return plans.get(largest(fits, max(first // unit, 1)))


def _check_batch(run, count: int) -> None:
    """Raises ConfigError with a valid --batch if the batch is not divisible."""
    from jaxvideo.planning.batch import batch_unit

    groups = count // run.parallel.split
    if run.batch_size % groups:
        unit = batch_unit(run, count)
        raise ConfigError(
            f"config.batch_size={run.batch_size}: must be a multiple of the {groups} devices"
            f"{f' (groups of {run.parallel.split})' * (groups < count)}. Pass --batch "
            f"{max(unit // count, 1)} for {max(unit, count)} clips per step"
        )
