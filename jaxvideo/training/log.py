"""Metrics of a run: `metrics.jsonl` and TensorBoard event files."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorboardX

from jaxvideo.progress import LOG, duration, write_file

METRICS = "metrics.jsonl"


@contextlib.contextmanager
def metrics_log(workdir: Path, first_step: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Opens the metrics of a run.

    Only the first process writes. A resumed run first removes the records after its checkpoint,
    because it writes them again.

    Args:
      workdir: run directory.
      first_step: step of the checkpoint from which the run resumes; 0 for a new run.

    Yields:
      A function `(step, values)` that appends one record.
    """
    from jaxvideo.training import distributed

    if not distributed.writes():
        yield lambda step, values: None
        return
    path = workdir / METRICS
    kept = [record for record in read_metrics(workdir) if record["step"] <= first_step]
    write_file(path, "".join(json.dumps(record) + "\n" for record in kept))
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
    """Reads the records of a run in order. A truncated last line is ignored."""
    path = workdir / METRICS
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


# Aliases until the training loop uses `jaxvideo.progress`.


def say(text: str) -> None:
    """Alias of `LOG.info`."""
    LOG.info("%s", text)


def warn(text: str) -> None:
    """Alias of `LOG.warning`."""
    LOG.warning("%s", text)


def meter(total: int, done: int = 0) -> Callable[..., str]:
    """Returns `tell(done, waited, clips)` -> "123.4 clips/s  data wait 5 %  ETA 1:23".

    Superseded by `jaxvideo.progress.bar`.
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
