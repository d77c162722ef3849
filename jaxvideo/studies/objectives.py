"""Objectives of X3D expansion, the functions that `expansion.expand` maximizes."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax

from jaxvideo.progress import write_file
from jaxvideo.studies.expansion import Factors, Objective, evaluate_objective
from jaxvideo.training.loop import train
from jaxvideo.types import CheckpointError, ConfigError


def motion_objective(
    folder: Path,
    *,
    base_crop: int = 48,
    base_fps: float = 4.0,
    epochs: float = 27.0,
    train_videos: int = 1200,
    val_videos: int = 320,
) -> Objective:
    """Returns the objective "video top-1 after a short training on the motion data set".

    Videos of that data set have 84 x 112 pixels and last one second. Hence the crop and the frame
    rate of all candidates are scaled by constant factors. Channels, blocks and frames are not.

    Args:
      folder: directory of the runs, one per candidate.
      base_crop: pixels that replace the 112 pixels of X2D.
      base_fps: frame rate that replaces that of X2D. At 4, a candidate that "temporal" has grown
        to 16 frames sees the whole video.
      epochs: epochs of each training.
      train_videos: size of the training set.
      val_videos: size of the test set.

    Raises:
      ConfigError: `base_crop` is less than 8, or `base_fps` is not positive.
    """
    if base_crop < 8 or base_fps <= 0:
        raise ConfigError(
            f"base_crop={base_crop}, base_fps={base_fps:g}: the crop must be at least 8, the frame "
            "rate positive"
        )
    pixels, rate = base_crop / Factors.crop, base_fps / Factors.fps

    def accuracy(factors: Factors) -> float:
        config = {
            "seed": 0,
            "epochs": epochs,
            "epoch_steps": 0,
            "batch_size": 32,
            "eval_batch_size": 32,
            "label_smoothing": 0.0,
            "log_seconds": 5.0,
            "model": {**factors.model, "dropout_rate": 0.2, "bn_epsilon": 1e-3},
            "preprocessing": dataclasses.asdict(factors.preprocessing(pixels, rate)),
            "data": {"source": "motion", "train_videos": train_videos, "val_videos": val_videos},
            "augment": {"flip": False},
            "optim": {
                "lr": 0.05,
                "warmup_epochs": min(2.0, epochs / 4),
                "nesterov": True,
                "weight_decay": 1e-4,
            },
            "protocol": {"clips": 2},
            "checkpoint": {"keep": 1},
        }
        run = folder / re.sub(r"[^\d.]+", "-", factors.describe()).strip("-")
        result = train(config, run)
        # Neither the weights of a candidate nor its compiled programs are needed again.
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        jax.clear_caches()
        return result["top1"]

    return accuracy


def command_objective(command: str) -> Objective:
    """Returns the objective "last number that a command prints".

    Args:
      command: command line, run without a shell. `{model_json}` is replaced by a JSON object with
        `model` (arguments of `create_model`) and `preprocessing`.

    Raises:
      ConfigError: the command does not contain `{model_json}`, or is not a valid command line.
    """
    if "{model_json}" not in command:
        raise ConfigError(
            f"objective={command!r}: must be motion, published, or a command with {{model_json}}"
        )
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"objective={command!r}: {error}") from error

    def value(factors: Factors) -> float:
        given = {
            "model": factors.model,
            "preprocessing": dataclasses.asdict(factors.preprocessing()),
        }
        filled = [part.replace("{model_json}", json.dumps(given)) for part in arguments]
        try:
            done = subprocess.run(filled, stdout=subprocess.PIPE, text=True, check=True)
            return float(done.stdout.split()[-1])
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"objective {arguments[0]!r} failed ({error})") from error
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"objective {arguments[0]!r} printed no number ({error}); its last word must be one"
            ) from error

    return value


def remembered(objective: Objective, file: Path, what: str) -> Objective:
    """Caches an objective in a file, so that an interrupted expansion resumes.

    Args:
      objective: function to cache.
      file: JSON file.
      what: identifies the objective; a file of another objective is rejected.

    Raises:
      CheckpointError: the file is corrupt.
      ConfigError: the file belongs to another objective.
    """
    known: dict[Factors, float] = {}
    if file.exists():
        try:
            content = json.loads(file.read_text())
            theirs = content["objective"]
            for row in content["values"]:
                measured = row.pop("value")
                known[Factors(**row)] = measured
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{file} is corrupt ({error}); delete it to start again"
            ) from error
        if theirs != what:
            raise ConfigError(
                f"{file} belongs to the objective {theirs!r}, not {what!r}; choose another --out"
            )

    def value(factors: Factors) -> float:
        if factors not in known:
            known[factors] = evaluate_objective(objective, factors)
            rows = [{**dataclasses.asdict(f), "value": v} for f, v in known.items()]
            write_json(file, {"objective": what, "values": rows})
        return known[factors]

    return value


def write_json(file: Path, value: Any) -> None:
    """Writes a value as JSON; creates the directory.

    Raises:
      CheckpointError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written ({error.strerror})") from error
