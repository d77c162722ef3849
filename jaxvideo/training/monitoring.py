"""Monitors a training loop: metrics, broken videos, stop signals and the profiler."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.pipeline import Batch, error_text
from jaxvideo.names import escape
from jaxvideo.progress import LOG, bar
from jaxvideo.training import distributed
from jaxvideo.training.chips import mfu
from jaxvideo.training.loggers import StepLog
from jaxvideo.training.program import model_flops
from jaxvideo.training.schema import Run
from jaxvideo.types import DataError, TrainingError


@dataclasses.dataclass(frozen=True)
class Monitor:
    """The monitor of a training loop, as functions that the loop calls.

    Attributes:
      note: `note(step, batch, metrics, waited)`, called after each step is launched. `metrics` are
        arrays on the device. They are read one step later, because reading waits for the device.
        `waited` is the time in seconds that the loop waited for data.
      read: reads the metrics of the last step.
      means: calls `read`, then returns the mean metrics since the previous call of `means`.
      sums: sums of the metrics since the previous call of `means`, for the checkpoint.
      resume: called after a pause such as a validation, to exclude its time from the speed.
    """

    note: Callable[[int, Batch, dict[str, jax.Array], float], None]
    read: Callable[[], None]
    means: Callable[[], dict[str, float]]
    sums: Callable[[], dict[str, Any]]
    resume: Callable[[], None]


@contextlib.contextmanager
def monitor(
    run: Run,
    model,
    dataset: VideoDataset,
    first: int,
    total: int,
    epoch: Mapping[str, Any] | None = None,
    *,
    on_broken: Callable[[int, str], None] = lambda video, reason: None,
    log: StepLog | None = None,
) -> Iterator[Monitor]:
    """Yields the monitor of steps `first + 1` to `total` and shows a progress bar.

    Args:
      run: the run.
      model: the network.
      dataset: the training set.
      first, total: last finished step, and last step of the run.
      epoch: `Monitor.sums` of the checkpoint from which the run resumes, so that the means of an
        interrupted epoch are over all its steps.
      on_broken: called with the index of each unreadable video, once, and the reason.
      log: receives the metrics of each step.

    Raises (when metrics are read):
      TrainingError: a metric is not finite.
      DataError: too many videos cannot be read.
    """
    note_broken = _broken_watch(dataset, run.data.max_broken, on_broken)
    used = _utilization(run, model)
    pending: list[tuple] = []
    sums: dict[str, float] = dict((epoch or {}).get("sums", {}))
    count = [int((epoch or {}).get("steps", 0))]
    latest = [first]

    def read() -> None:
        if not pending:
            return
        step, batch, metrics, waited = pending.pop()
        metrics = dict(metrics)
        note_broken(np.asarray(metrics.pop("broken")), batch)
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not np.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} at step {step}; training stops and keeps its checkpoints. "
                    "Try a lower config.optim.lr, a warm-up or config.optim.clip_norm"
                )
        if step == first + 1:
            LOG.info(f"  step {step}/{total}  loss {values['loss']:.3f}")
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        count[0] += 1
        latest[0] = step
        if log:
            log.note(step, values, waited)
        update(step, waited=waited, note=lambda rate: f"loss {values['loss']:.3f}{used(rate)}")

    def note(step: int, batch: Batch, metrics: dict[str, jax.Array], waited: float) -> None:
        read()
        # Without the videos, to free their memory.
        rows = {name: batch[name] for name in ("sample", "error", "weight")}
        pending.append((step, rows, metrics, waited))

    def means() -> dict[str, float]:
        read()
        found = {name: value / count[0] for name, value in sums.items()}
        sums.clear()
        count[0] = 0
        return found

    def resume() -> None:
        if log:
            log.resume()
        update(latest[0], idle=True)

    shown = bar(
        total,
        "step",
        unit="clips",
        units=run.batch_size,
        done=first,
        every=run.log_seconds,
    )
    with shown as update:
        yield Monitor(
            note,
            read,
            means,
            lambda: {"sums": dict(sums), "steps": count[0]},
            resume,
        )


def _utilization(run: Run, model) -> Callable[[float], str]:
    """Returns the function that formats the model FLOPs utilization (MFU) of a rate in steps/s.

    The text is empty if the peak FLOP/s of the device is unknown.
    """
    flops: list[int] = []

    def used(rate: float) -> str:
        devices, kind = jax.device_count(), jax.devices()[0].device_kind
        if not rate or mfu(1.0, 1.0, kind, devices) is None:
            return ""
        if not flops:
            flops.append(model_flops(model, run))
        return f"  MFU {100 * (mfu(flops[0], 1 / rate, kind, devices) or 0):.0f} %"

    return used


def _broken_watch(
    dataset: VideoDataset, most: float, on_broken: Callable[[int, str], None]
) -> Callable[[np.ndarray, Batch], None]:
    """Returns `note(videos, batch)`, which logs each unreadable video once and calls `on_broken`.

    It raises a DataError if the share of unreadable videos exceeds `most`. `videos`, int32 `[N]`,
    are the indices of the unreadable videos of the global batch, the same on all processes, and
    -1 elsewhere. `batch` is the part of this process, with the reasons for its own videos.
    """
    broken: dict[int, str] = {}

    def note(videos: np.ndarray, batch: Batch) -> None:
        new = [video for video in videos[videos >= 0].tolist() if video not in broken]
        if not new:
            return
        reasons = {
            int(batch["sample"][place, 1]): error_text(batch["error"][place])
            for place in np.flatnonzero(batch["weight"] == 0)
        }
        for video in new:
            elsewhere = f"{escape(dataset.paths[video])}: another process logs the reason"
            broken.setdefault(video, reasons.get(video, elsewhere))
            LOG.warning(f"skipped, {len(broken)} so far: {broken[video]}")
            on_broken(video, broken[video])
        if len(broken) > max(most * len(dataset), 1):
            lines = "\n".join(f"  {reason}" for reason in list(broken.values())[:20])
            raise DataError(
                f"{len(broken)} of {len(dataset)} videos cannot be read; the limit is the share "
                f"config.data.max_broken={most:g}:\n{lines}"
            )

    return note


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
    """Yields `requested(step)`: True if the run must stop after this step.

    SIGTERM and the first Ctrl-C request a stop; a second Ctrl-C interrupts at once. In a run of
    several processes JAX's runtime receives SIGTERM, and all processes agree on the step.
    """
    if jax.process_count() > 1:
        yield distributed.stop_agreed
        return
    received: list[int] = []

    def handle(number, frame):
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        LOG.info("  stopping after this step and saving ...")

    try:
        before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # only the main thread may set signal handlers
        before = {}
    try:
        yield lambda step: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def profiler(workdir: Path, steps: tuple[int, ...]) -> Iterator[Callable[[int], None]]:
    """Yields `before(step)`, which the loop calls before each step.

    It traces steps `steps[0]` to `steps[1] - 1` into `workdir/profile`; empty `steps`: nothing.
    """
    tracing = False

    def before(step: int) -> None:
        nonlocal tracing
        if steps and not tracing and steps[0] <= step < steps[1]:
            jax.profiler.start_trace(str(workdir / "profile"))
            tracing = True
        elif tracing and step >= steps[1]:
            jax.profiler.stop_trace()
            tracing = False
            LOG.info(f"  trace of steps {steps[0]} to {steps[1] - 1}: {workdir / 'profile'}")

    try:
        yield before
    finally:
        if tracing:
            jax.profiler.stop_trace()
