"""Summaries of run directories. This module imports neither JAX nor Orbax, so that it is fast."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvideo.training.log import read_metrics
from jaxvideo.types import DataError
from jaxvideo.weights.formats import upgrade_config

#: States of a run.
FINISHED, STOPPED, EMPTY, DAMAGED = STATES = (
    "finished",
    "stopped",
    "no checkpoint yet",
    "damaged",
)

# Files of a run directory, see `run_folder` and `checkpoint`.
RUN, RESULT, CHECKPOINTS = "run.json", "result.json", "checkpoints"


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What a run directory contains.

    Attributes:
      path: run directory.
      state: one of `STATES`. A run that is still training is "stopped" or "no checkpoint yet",
        because the directory does not tell.
      recipe: the recipe, if the directory has its default name; otherwise "".
      network: name of the network.
      data: data directory, or the name of an embedded data set.
      started: modification time of `run.json`, in seconds since the epoch.
      step: last step that was logged or saved.
      epoch: epochs finished.
      epochs: epochs of the config.
      top1: video top-1 of a finished run, 0 to 1; None before.
      top5: video top-5.
      best_top1: best one-clip validation top-1 of an epoch.
      best_step: its step.
      protocol: test protocol of a finished run.
      seconds: duration of a finished run.
    """

    path: str
    state: str
    recipe: str = ""
    network: str = ""
    data: str = ""
    started: float = 0.0
    step: int | None = None
    epoch: float | None = None
    epochs: float | None = None
    top1: float | None = None
    top5: float | None = None
    best_top1: float | None = None
    best_step: int | None = None
    protocol: str | None = None
    seconds: float | None = None


def find_runs(folder: str | os.PathLike[str]) -> list[RunSummary]:
    """Returns the runs in a directory and below, the oldest first.

    Raises:
      DataError: the directory does not exist or cannot be read.

    Example:
      for run in find_runs("runs"):
          print(run.path, run.state, run.top1)
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; `jaxvideo train` writes runs to runs/")
    found = [summarize(path) for path in _run_folders(root)]
    return sorted(found, key=lambda run: (run.started, run.path))


def summarize(path: Path) -> RunSummary:
    """Returns the summary of a run directory; files that are damaged or missing are left out."""
    blank = RunSummary(str(path), DAMAGED)
    try:
        blank = dataclasses.replace(blank, started=(path / RUN).stat().st_mtime)
        config = upgrade_config(json.loads((path / RUN).read_text("utf-8")), path / RUN)
        network, data = config["model"]["name"], config.get("data", {})
        blank = dataclasses.replace(blank, epochs=config.get("epochs"))
    except Exception:  # whatever a damaged file contains
        return blank
    result = _json(path / RESULT)
    records = _records(path)
    steps = [record["step"] for record in records]
    with contextlib.suppress(OSError):
        steps += [int(name) for name in os.listdir(path / CHECKPOINTS) if name.isdecimal()]
    best = max(records, key=lambda r: r.get("val_top1", -1.0), default={})
    default = re.fullmatch(rf"(.+)-{re.escape(network)}-[0-9a-f]{{6}}", path.name)
    state = FINISHED if result else STOPPED if steps else EMPTY
    return dataclasses.replace(
        blank,
        state=state,
        recipe=default[1] if default else "",
        network=network,
        data=data.get("root") or data.get("source", ""),
        step=max(steps, default=None),
        epoch=len(records),
        top1=result.get("top1"),
        top5=result.get("top5"),
        best_top1=best.get("val_top1"),
        best_step=best.get("step"),
        protocol=result.get("protocol"),
        seconds=result.get("seconds"),
    )


def _run_folders(root: Path) -> Iterator[Path]:
    try:
        for folder, inner, files in os.walk(root, onerror=_raise):
            if RUN in files:
                inner.clear()
                yield Path(folder)
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read ({error.strerror})") from error


def _raise(error: OSError) -> None:
    raise error


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        found = read_metrics(path)
    except (OSError, UnicodeDecodeError):
        return []
    return [r for r in found if isinstance(r, dict) and isinstance(r.get("step"), int)]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
