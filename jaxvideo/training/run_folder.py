"""The run directory: its config, the descriptions of its checkpoints, and its result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.evaluation.fusion import SCORES, Scores, save_scores, video_names
from jaxvideo.evaluation.intervals import few_videos
from jaxvideo.evaluation.protocol import Result, describe_protocol
from jaxvideo.progress import LOG, duration, write_file
from jaxvideo.training import checkpoint, distributed
from jaxvideo.training.config import differences, identity, read_config
from jaxvideo.training.schema import Run
from jaxvideo.types import CheckpointError
from jaxvideo.weights import formats

RESULT = "result.json"
RUN = "run.json"


def claim(workdir: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Creates the run directory, or returns the result if it has a finished run.

    Raises:
      CheckpointError: the directory has a run of another config, has other files, or cannot be
        written.
    """
    run_file = workdir / RUN
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if run_file.exists():
            lines = differences(_complete(read_run_config(workdir)), _complete(config))
            # If no checkpoint was saved, another config may replace the run.
            if lines and any((workdir / checkpoint.FOLDER).glob("*")):
                raise CheckpointError(
                    f"{workdir} has a run of another config; pass another --workdir. "
                    "Values in that run and in this config:\n  " + "\n  ".join(lines[:20])
                )
        elif any(workdir.iterdir()):
            raise CheckpointError(
                f"{workdir} is not empty and not a run directory; pass another --workdir"
            )
        if (workdir / RESULT).exists():
            return json.loads((workdir / RESULT).read_text())
        write_json(run_file, {**config, "format": formats.FORMAT})
    except OSError as error:
        raise CheckpointError(
            f"the run directory {workdir} cannot be written ({error.strerror}); "
            "pass another --workdir"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{workdir}: {RUN} or {RESULT} is damaged ({error}); pass another --workdir"
        ) from error
    return None


def read_run_config(workdir: Path) -> dict[str, Any]:
    """Returns the config that a run directory records, in the current format.

    Raises:
      CheckpointError: `run.json` has a newer format.
      OSError, ValueError: `run.json` does not exist, or is damaged.
    """
    path = workdir / RUN
    return formats.upgrade_config(json.loads(path.read_text(encoding="utf-8")), path)


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys that determine the numbers of a run; missing keys get their defaults.

    Configs of older versions lack keys. Defaults of new keys do not change a run.
    """
    return identity(json.loads(json.dumps(dataclasses.asdict(read_config(config)))))


def recorded_dtype(workdir: Path) -> str | None:
    """Returns the compute dtype of the run in a run directory; None if there is no run."""
    try:
        return read_run_config(workdir)["model"]["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def report(
    run: Run,
    workdir: Path,
    result: Result,
    dataset: VideoDataset,
    seconds: float,
    best: dict[str, Any] | None,
) -> dict[str, Any]:
    """Returns the contents of `result.json`. Process 0 also writes this file and the scores."""
    for reason in result.broken.values():
        LOG.warning(f"excluded: {reason}")
    report = {
        "top1": result.top1,
        **({} if result.top5 is None else {"top5": result.top5}),
        "protocol": describe_protocol(run.protocol, run.preprocessing, dataset.paths),
        "model": run.model,
        "videos": len(result.labels),
        "unreadable_videos": len(result.broken),
        "best_one_clip": best,
        "seconds": round(seconds, 1),
        "seed": run.seed,
        "versions": checkpoint.versions(),
    }
    if distributed.writes():
        names = video_names(dataset.paths)
        videos = tuple(names[video] for video in result.videos)
        found = (result.scores, result.labels, dataset.classes, videos, result.label_sets)
        save_scores(workdir / SCORES, Scores(*found))
        write_json(workdir / RESULT, report)
    top5 = "" if result.top5 is None else f", top-5 {100 * result.top5:.1f} %"
    LOG.info(
        f"video top-1 {100 * result.top1:.1f} %{top5} of {len(result.labels)} videos, "
        f"{duration(seconds)} after the start; {report['protocol']}"
    )
    if text := few_videos(len(result.labels)):
        LOG.warning(text)
    LOG.info(f"result: {workdir / RESULT}")
    return report


def describe(run: Run, config, dataset: VideoDataset, step: int) -> dict[str, Any]:
    """Returns the description of a checkpoint as JSON; `data` is the state of the data stream."""
    return {
        "model": {**run.model, "num_classes": len(dataset.classes)},
        "classes": list(dataset.classes),
        "preprocessing": dataclasses.asdict(run.preprocessing),
        "protocol": dataclasses.asdict(run.protocol),
        "config": config,
        "data": {"next_batch": step},
    }


def write_json(path: Path, value: Any) -> None:
    write_file(path, json.dumps(value, indent=2) + "\n")
