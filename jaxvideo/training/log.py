"""Metrics of a run by epoch: `metrics.jsonl`, and the loggers of the config."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxvideo.progress import write_file
from jaxvideo.training.loggers import Write

METRICS = "metrics.jsonl"


@contextlib.contextmanager
def metrics_log(
    workdir: Path, first_step: int, others: Write = lambda step, values: None
) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Opens the metrics of a run.

    Only the first process writes. A resumed run first removes the records after its checkpoint,
    because it writes them again.

    Args:
      workdir: run directory.
      first_step: step of the checkpoint from which the run resumes; 0 for a new run.
      others: also receives each record, see `loggers.open_loggers`.

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

    def write(step: int, values: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        others(step, values)

    yield write


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Reads the records of a run in order. A truncated last line is ignored."""
    path = workdir / METRICS
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
