"""Text of a plan: the lines that `jaxvideo plan` prints."""

from __future__ import annotations

from collections.abc import Iterator

from jaxvideo.planning.plan import Plan
from jaxvideo.progress import duration
from jaxvideo.training.chips import Chip
from jaxvideo.training.config import Run


def plan_lines(
    run: Run,
    plan: Plan,
    chip: Chip | None,
    limit: int,
    videos: int | None,
    dataset: str,
    fits: bool,
) -> Iterator[tuple[str, str]]:
    """Yields label and text of each line.

    Args:
      run: the config.
      plan: its compiled step.
      chip: specification of the devices; None if unknown.
      limit: memory of a device in bytes.
      videos: number of training videos; None if unknown.
      dataset: name of the data set.
      fits: False if the step exceeds the memory.
    """
    memory, cost = plan.memory, plan.cost
    yield "batch", batch_text(run, plan.devices)
    yield "compiled", f"in {duration(plan.seconds)}"
    yield (
        "memory",
        f"{size_text(memory.total)} per chip, {100 * memory.total / limit:.0f} % of "
        f"{size_text(limit)}{'' if fits else ': DOES NOT FIT'}",
    )
    yield (
        "",
        f"arguments {size_text(memory.arguments)} (including the batch, "
        f"{size_text(plan.clip_bytes)}; the next batch needs as much again), outputs "
        f"{size_text(memory.outputs)}, temporaries {size_text(memory.temporaries)}, program "
        f"{size_text(memory.program)}",
    )
    if plan.kind.startswith("NVIDIA") and memory.total > 0.75 * limit:
        yield (
            "",
            "JAX uses 75 % of GPU memory unless XLA_PYTHON_CLIENT_MEM_FRACTION is set",
        )
    yield "parameters", f"{plan.parameters:,}"
    yield (
        "FLOPs",
        f"{plan.model_flops:.3g} per step for the network (2 x 3 x multiply-adds x clips); "
        f"{plan.flops:.3g} in the program",
    )
    for kind, (number, size) in cost.collectives.items():
        yield kind, f"{number} per step, {size_text(size)} per chip"
    if not cost.collectives:
        yield "collectives", "none"
    if chip and (seconds := plan.link_seconds(chip)):
        yield (
            "",
            f"at least {1e3 * seconds:.2g} ms at {chip.link / 1e9:g} GB/s, the bandwidth of a "
            "chip's links",
        )
    if cost.unknown_loops:
        yield "", f"{cost.unknown_loops} loops of unknown length count once, here and below"
    yield from _speed_lines(run, plan, chip, videos, dataset)


def _speed_lines(
    run: Run, plan: Plan, chip: Chip | None, videos: int | None, dataset: str
) -> Iterator[tuple[str, str]]:
    seconds = plan.step_seconds(chip) if chip else None
    if chip is None or seconds is None:
        yield "time", "no estimate: only the TPU compiler provides one"
        return
    cost = plan.cost
    yield (
        "time",
        f"ESTIMATE {cost.cycles / 1e6:,.2f} Mcycles per step, {1e3 * seconds:,.1f} ms at "
        f"{chip.clock / 1e9:g} GHz (compiler's estimate, without collectives and data loading)",
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
        yield (
            "epochs",
            f"ESTIMATE {3600 * rate / clips:,.1f} per hour, {clips:,} clips of {dataset}",
        )
        epoch = epoch or clips
    if epoch:
        text = f"ESTIMATE {duration(run.epochs * epoch / rate)} for {run.epochs:g} epochs"
        yield "run", f"{text} of {epoch:,} clips, as in the config"
    else:
        yield "run", "duration unknown; pass --dataset NAME or --dataset-clips N"


def batch_text(run: Run, count: int) -> str:
    """Formats the batch of a run on `count` devices."""
    groups = run.model.get("bn_groups", 1)
    bn = f", {groups} BN groups of {run.batch_size // groups}" if groups > 1 else ""
    return f"{run.batch_size} clips per step, {run.batch_size / count:g} per chip{bn}"


def clip_text(run: Run) -> str:
    """Formats the shape and the compute dtype of a clip."""
    shape = " x ".join(map(str, run.preprocessing.shape))
    return f"{shape}, {run.model.get('dtype', 'float32')}"


def size_text(size: float) -> str:
    """Formats a number of bytes in binary units.

    Example:
      >>> size_text(3 * 2**29)
      '1.50 GiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def training_flags(asked: Run, run: Run, count: int) -> list[str]:
    """Returns the flags of `train.py` that change the config to the planned run.

    Args:
      asked: the config.
      run: the planned run.
      count: number of devices.
    """
    flags = []
    if run.batch_size != asked.batch_size:
        flags.append(f"--batch_size={run.batch_size}")
    if run.model.get("bn_groups") != asked.model.get("bn_groups"):
        flags.append(f"--model.bn_groups={run.model['bn_groups']}")
    groups = count // run.parallel.split
    if run.eval_batch_size % groups:
        flags.append(f"--eval_batch_size={-(-run.eval_batch_size // groups) * groups}")
    return flags
