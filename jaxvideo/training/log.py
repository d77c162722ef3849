"""Metrics of a run: `metrics.jsonl` and TensorBoard event files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorboardX

from jaxvideo.progress import write_file

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
