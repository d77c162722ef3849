"""The run directory: its config, the descriptions of its checkpoints, and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.evaluation.fusion import SCORES, Scores, save_scores, video_names
from jaxvideo.evaluation.intervals import few_videos, interval
from jaxvideo.evaluation.metrics import METRICS
from jaxvideo.evaluation.protocol import Result, describe_protocol
from jaxvideo.progress import LOG, duration, write_file
from jaxvideo.training import checkpoint, distributed
from jaxvideo.training.config import complete, differences, identity, read_config
from jaxvideo.training.data_checks import TRAINED
from jaxvideo.training.log import METRICS as METRICS_FILE
from jaxvideo.training.optim import same_rates
from jaxvideo.training.schema import Optim, Run
from jaxvideo.types import CheckpointError, JaxvideoError
from jaxvideo.weights import formats

RESULT = "result.json"
RUN = "run.json"
BROKEN = "broken.txt"


def check(workdir: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Checks that a run can be written to a run directory, or returns the result of a finished run.

    Nothing is written.

    Raises:
      CheckpointError: the directory has a run of another config, has other files, or cannot be
        written.
    """
    try:
        nearest = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            kind = "is not writable" if nearest.is_dir() else "is a file"
            raise CheckpointError(
                f"the run directory {workdir} cannot be written ({nearest} {kind}); "
                "pass another --workdir"
            )
        if not workdir.exists():
            return None
        if not (workdir / RUN).exists():
            if any(workdir.iterdir()):
                raise CheckpointError(
                    f"{workdir} is not empty and not a run directory; pass another --workdir"
                )
            return None
        before = read_run_config(workdir)
        if _saved(workdir):  # otherwise another config may replace the run
            _check_same(workdir, before, config)
        if (workdir / RESULT).exists() and not _is_longer(before, config):
            return json.loads((workdir / RESULT).read_text())
    except OSError as error:
        raise CheckpointError(
            f"the run directory {workdir} cannot be read ({error.strerror}); pass another --workdir"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{workdir}: {RUN} or {RESULT} is damaged ({error}); pass another --workdir"
        ) from error
    return None


@contextlib.contextmanager
def claimed(workdir: Path, config: dict[str, Any]) -> Iterator[None]:
    """Context of a run that writes to its run directory, which it creates.

    If the run fails before its first checkpoint, everything that this start created is removed.

    Args:
      workdir: run directory that `check` accepts.
      config: config of the run.

    Raises:
      CheckpointError: the directory cannot be written.
    """
    if not distributed.writes():
        distributed.broadcast(None)  # waits until the directory exists
        yield
        return
    new = [p for p in (workdir, *workdir.parents) if not p.exists()]
    started = (workdir / RUN).exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        result = workdir / RESULT
        if result.exists():  # of a shorter run, which this one continues
            epochs = read_run_config(workdir).get("epochs", 1.0)
            result.rename(workdir / f"result-{epochs:g}-epochs.json")
        write_json(workdir / RUN, {**config, "format": formats.FORMAT})
    except OSError as error:
        raise CheckpointError(
            f"the run directory {workdir} cannot be written ({error.strerror}); "
            "pass another --workdir"
        ) from error
    distributed.broadcast(None)
    try:
        yield
    except BaseException:
        if not started and not _saved(workdir):
            for name in (RUN, BROKEN, METRICS_FILE, TRAINED):
                (workdir / name).unlink(missing_ok=True)
            for name in (checkpoint.FOLDER, "tensorboard"):
                shutil.rmtree(workdir / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty, for instance a trace of the profiler
                for folder in new:
                    folder.rmdir()
        raise


def shorter_run(workdir: Path, config: dict[str, Any]) -> Path | None:
    """Returns the run directory beside `workdir` with a run that this config continues, if any.

    Such a run differs only in `epochs`, and its learning rates do not depend on its length. If
    they do, the log states how to continue.

    Args:
      workdir: default run directory of the config.
    """
    if workdir.exists():
        return None
    for file in sorted(workdir.parent.glob(f"{workdir.name.rpartition('-')[0]}-*/{RUN}")):
        try:
            before = read_run_config(file.parent)
            lines = differences(_complete(before), _complete(config))
        except (OSError, ValueError, JaxvideoError):
            continue
        if _is_longer(before, config) or not lines:
            return file.parent
        if len(lines) == 1 and lines[0].startswith("config.epochs:"):
            LOG.info(
                f"{file.parent} has the same run with {before.get('epochs', 1.0):g} epochs. This "
                "is a new run, because the learning rates depend on the number of epochs; "
                f"config.init.weights={file.parent} starts from its weights"
            )
    return None


def _saved(workdir: Path) -> bool:
    """Returns True if a run directory has a checkpoint."""
    return any(path.name.isdecimal() for path in (workdir / checkpoint.FOLDER).glob("*"))


def _check_same(workdir: Path, before: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises if a config cannot continue the run of a run directory."""
    lines = differences(_complete(before), _complete(config))
    if not lines or _is_longer(before, config):
        return
    advice = ""
    if len(lines) == 1 and lines[0].startswith("config.epochs:"):
        advice = (
            f". optim.schedule={config.get('optim', {}).get('schedule', Optim.schedule)!r} cannot "
            "be continued to another number of epochs, unless it is constant, step or plateau and "
            "the number grows. To train on from these weights: another --workdir, and "
            f"config.init.weights={workdir} (config.init.step=best for the best step)"
        )
    raise CheckpointError(
        f"{workdir} has a run of another config; pass another --workdir. "
        "Values in that run and in this config:\n  " + "\n  ".join(lines[:20]) + advice
    )


def _is_longer(before: dict[str, Any], config: dict[str, Any]) -> bool:
    """Returns True if a config differs from a run only by more epochs, which continue the run."""
    one, other = _complete(before), _complete(config)
    epochs, longer = one.pop("epochs"), other.pop("epochs")
    if one != other or not 0 < epochs < longer:
        return False
    return same_rates(read_config(config).optim, epochs, longer)


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
    values = dict(config)
    optim = dict(values.get("optim", {}))
    if optim.get("frozen"):  # before `frozen_stats` existed, the statistics were not frozen
        values["optim"] = {"frozen_stats": False, **optim}
    return identity(complete(values))


def recorded_checkpoint(workdir: Path) -> dict[str, Any] | None:
    """Returns the description of the newest checkpoint of a run; None if there is none."""
    if not _saved(workdir):
        return None
    with checkpoint.open_checkpoints(workdir, keep=None) as checkpoints:
        return checkpoint.describe(checkpoints)


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
    skipped: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the contents of `result.json`. Process 0 also writes this file and the scores."""
    for reason in result.broken.values():
        LOG.warning(f"excluded: {reason}")
    top1 = interval(METRICS["top1"], result.scores, result.truth)
    report = {
        "top1": result.top1,
        **({} if result.top5 is None else {"top5": result.top5}),
        "intervals": {"top1": [top1.low, top1.high]},
        "protocol": describe_protocol(run.protocol, run.preprocessing, dataset.paths),
        "model": run.model,
        "videos": len(result.labels),
        "unreadable_videos": len(result.broken),
        "broken": result.broken,
        "skipped_training_videos": list(skipped),
        "worst": _worst(result, dataset),
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
        f"video top-1 {100 * result.top1:.1f} %{top1.ends(' (95 % interval {:.1f} to {:.1f} %)')}"
        f"{top5} of {len(result.labels)} videos, {duration(seconds)} after the start; "
        f"{report['protocol']}"
    )
    if text := few_videos(len(result.labels)):
        LOG.warning(text)
    LOG.info(f"result: {workdir / RESULT}")
    return report


def _worst(result: Result, dataset: VideoDataset, most: int = 10) -> list[dict[str, Any]]:
    """Returns the videos of highest loss, with labels, prediction and loss."""
    losses = np.where(np.isnan(result.losses), np.inf, result.losses)
    found = []
    for row in np.argsort(-losses, kind="stable")[:most]:
        video = int(result.videos[row])
        labels = dataset.label_sets[video] if dataset.label_sets else (dataset.labels[video],)
        found.append(
            {
                "video": dataset.paths[video],
                "labels": [dataset.classes[label] for label in labels],
                "prediction": dataset.classes[int(result.scores[row].argmax())],
                "loss": round(float(min(losses[row], 1e9)), 4),  # JSON has no infinity
            }
        )
    return found


class BrokenList:
    """The file `broken.txt` of a run: unreadable training videos, in the form of a quarantine list.

    `config.data.quarantine=RUN/broken.txt` leaves them out of another run.
    """

    def __init__(self, workdir: Path, dataset: VideoDataset):
        self._path, self._dataset = workdir / BROKEN, dataset
        self._lines: dict[str, str] = {}
        with contextlib.suppress(OSError):  # a resumed run
            text = self._path.read_text(encoding="utf-8", errors="surrogateescape")
            self._lines = {line.partition("\t")[0]: line for line in text.splitlines()}

    def add(self, video: int, reason: str) -> None:
        """Adds a video, given its index and the reason. Only process 0 writes."""
        path = self._dataset.paths[video]
        name = _one_line(os.path.abspath(path) if os.path.lexists(path) else path)
        self._lines[name] = f"{name}\t{_one_line(reason)}"
        if distributed.writes():
            write_file(self._path, "".join(f"{line}\n" for line in self._lines.values()))

    def names(self) -> list[str]:
        """Returns the paths of the videos."""
        return list(self._lines)


def _one_line(text: str) -> str:
    return "".join(repr(c)[1:-1] if c in "\t\n\r\v\f\x85\u2028\u2029" else c for c in text)


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
    """Writes a value as JSON to a file, which is replaced as a whole."""
    write_file(path, json.dumps(value, indent=2) + "\n")
