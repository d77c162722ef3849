"""The format of the description that is stored beside weights, and how to read older ones.

A description is a JSON dict with the sections `model`, `preprocessing`, `protocol`, `classes` and,
in a checkpoint of a training run, `config`. Checkpoints, safetensors files and `run.json` share
one format number. A description without a number has format 1.

To change what a description holds, increment `FORMAT` and add a row to `UPGRADES`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from jaxvideo import __version__
from jaxvideo.types import CheckpointError

#: Current format number.
FORMAT = 2

# Values that were renamed in format 2: {(section, key): {old: new}}.
_RENAMED_IN_2 = {
    ("protocol", "starts"): {"centres": "centers"},
    ("init", "inflate"): {"centre": "center"},
}


# Networks for which `model.width` in format 1 was a number of channels, or another factor: patterns
# of names, and the width of the paper's network in format 1. The first match counts.
_WIDTHS_IN_1 = (
    ("x3d_xl", 2.9),
    ("x3d_*", 2.0),
    ("x2d", 2.0),
    ("densenet3d_161", 96),
    *((name, 64) for name in ("c3d*", "c2d_r50*", "i3d_r50*", "slow*_r*", "fast_r50", "*csn_r*")),
    *((name, 64) for name in ("densenet3d_*", "t3d_*", "p3d_*", "resn*_3d*", "resnext*_3d")),
    *((name, 64) for name in ("preact_resnet*", "wide_resnet*", "*r2d_*", "*r3d_*", "r2plus1d_*")),
    *((name, 64) for name in ("mc?_*", "rmc?_*")),
)


def _from_1(description: dict[str, Any]) -> None:
    """Upgrades a description of format 1 in place.

    In format 2 names have American spelling, `width` is a factor of the paper's channels, and
    `fps=None` in a config means the frame rate of the network.
    """
    for part in (description, description.get("config")):
        model = _section(part, "model")
        if isinstance(model.get("width"), int | float):
            name = str(model.get("name"))
            paper = next((w for pattern, w in _WIDTHS_IN_1 if fnmatchcase(name, pattern)), 1)
            model["width"] /= paper
        for (section, key), renamed in _RENAMED_IN_2.items():
            values = _section(part, section)
            if values.get(key) in renamed:
                values[key] = renamed[values[key]]
    clips = _section(description.get("config"), "preprocessing")
    if "fps" in clips and clips["fps"] is None:
        clips["fps"] = 0  # 0 in format 2 means the frame rate of the video file


def _section(part: Any, name: str) -> dict[str, Any]:
    """Returns a section of a description, which may be damaged; empty if it is no section."""
    section = part.get(name) if isinstance(part, dict) else None
    return section if isinstance(section, dict) else {}


#: `UPGRADES[n]` turns a description of format n into one of format n + 1, in place.
UPGRADES: dict[int, Callable[[dict[str, Any]], None]] = {1: _from_1}


def upgrade(description: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Returns a description in the current format, without its format number.

    Args:
      description: a description of any format; it is not changed.
      where: the file or directory it was read from, for the error message.

    Raises:
      CheckpointError: the format is newer than this version of jaxvideo, or not a number.
    """
    upgraded = copy.deepcopy(dict(description))
    number = upgraded.pop("format", 1)
    if number not in (*UPGRADES, FORMAT):
        versions = upgraded.get("versions")
        writer = versions.get("jaxvideo") if isinstance(versions, dict) else None
        raise CheckpointError(
            f"{where} has format {number!r}"
            f"{f', written by jaxvideo {writer}' if writer else ''}; jaxvideo {__version__} reads "
            f"formats 1 to {FORMAT}. Install a newer version: pip install --upgrade jaxvideo"
        )
    for step in range(number, FORMAT):
        UPGRADES[step](upgraded)
    # Descriptions without this key are older than the transfer of planes.
    if clips := _section(upgraded, "preprocessing"):
        clips.setdefault("pixels", "rgb")
    return upgraded


def upgrade_config(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Returns the config of a run, as `run.json` stores it, in the current format.

    Args:
      config: a nested dict; `format` beside its sections is its format number.
      where: the file it was read from, for the error message.

    Raises:
      CheckpointError: see `upgrade`.
    """
    config = dict(config)
    return upgrade({"format": config.pop("format", 1), "config": config}, where)["config"]
