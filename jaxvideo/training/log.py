"""What a run tells: lines on the console, `metrics.jsonl`, TensorBoard event files."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorboardX

METRICS = "metrics.jsonl"

_SILENT = [False]


def silence() -> None:
    """From now on this process says nothing: another one of the run does."""
    _SILENT[0] = True


def say(text: str) -> None:
    """One line on the console, at once (also through a pipe). Nobody reading there any more is
    no reason for a run to end."""
    if not _SILENT[0]:
        try:
            print(text, flush=True)
        except BrokenPipeError:
            drop_output()


def drop_output() -> None:
    """Standard output goes nowhere from now on: its reader has gone, as `| head` does."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def warn(text: str) -> None:
    """One line on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def metrics_log(workdir: Path, first_step: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Gives `write(step, values)`, which appends to `metrics.jsonl` and TensorBoard.

    Only the process that speaks writes. A resumed run first drops the records that lie after its
    checkpoint: it makes them again.
    """
    if _SILENT[0]:
        yield lambda step, values: None
        return
    path = workdir / METRICS
    kept = [record for record in read_metrics(workdir) if record["step"] <= first_step]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    board = tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"), purge_step=first_step + 1 if first_step else None
    )

    def write(step: int, values: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            board.add_scalar(name, value, step)

    with contextlib.closing(board):
        yield write


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a last line cut short by a kill is left out."""
    path = workdir / METRICS
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def meter(total: int, done: int = 0) -> Callable[..., str]:
    """Gives `tell(done, waited, clips)` -> "123.4 clips/s  data wait 5 %  ETA 1:23".

    Args:
      total, done: units of work in all and so far; `waited` is seconds spent waiting for
      data since the last call, `clips` the clips since then.
    """
    started = last = time.perf_counter()
    first = done

    def tell(done: int, waited: float, clips: int) -> str:
        nonlocal last
        now = time.perf_counter()
        seconds, last = now - last, now
        rate = (done - first) / max(now - started, 1e-9)
        left = duration((total - done) / rate) if rate else "?"
        share = 100 * waited / max(seconds, 1e-9)
        return f"{clips / max(seconds, 1e-9):.1f} clips/s  data wait {share:.0f} %  ETA {left}"

    return tell


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
