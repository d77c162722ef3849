"""Files of an evaluation: `result.json`, `scores.npz` and `report.html`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.evaluation.fusion import SCORES, Scores, save_scores, video_names
from jaxvideo.evaluation.intervals import Estimate, few_videos
from jaxvideo.evaluation.protocol import Result
from jaxvideo.network import Network
from jaxvideo.progress import write_file
from jaxvideo.report.evaluation import evaluation_page
from jaxvideo.training.checkpoint import versions
from jaxvideo.types import Protocol


def coverage_text(result: Result) -> str:
    """Formats how many of the expected videos were scored."""
    missing = result.expected - len(result.labels) - len(result.broken)
    text = f"{100 * result.coverage:.2f} %, {len(result.labels)} of {result.expected} videos"
    return f"{text}; {len(result.broken)} unreadable, {missing} missing or quarantined"


def result_notes(result: Result, protocol: Protocol) -> list[str]:
    """Returns caveats that a reader of the metrics needs to know."""
    notes = [text] if (text := few_videos(len(result.labels))) else []
    if protocol.clips == 1 and protocol.crops == 1:
        notes.append(
            "One-clip validation: one center crop of one clip per video. Published numbers are "
            "usually means over several clips and crops, and higher."
        )
    if result.coverage < 1:
        notes.append(
            f"The metrics cover the {len(result.labels)} scored videos. Top-1 is "
            f"{100 * result.coverage * result.top1:.2f} % if the others count as wrong."
        )
    if wrong := int((~np.isfinite(result.scores)).any(1).sum()):
        notes.append(f"The scores of {wrong} videos are NaN or infinite; they count as wrong.")
    return notes


def write_results(
    out: Path,
    result: Result,
    dataset: VideoDataset,
    numbers: Mapping[str, Estimate],
    facts: Mapping[str, str],
    net: Network,
    protocol: Protocol,
    *,
    source: str,
    draws: int,
    worst: int,
    warnings: Sequence[str] = (),
) -> Sequence[str]:
    """Writes `scores.npz`, which `fuse` reads, `report.html` and `result.json`.

    Args:
      out: output directory, which exists.
      result: scores.
      dataset: evaluated data set.
      numbers: metrics with intervals.
      facts: everything that is needed to repeat the evaluation; shown in this order.
      net: evaluated network.
      protocol: test protocol.
      source: run directory or file of the weights.
      draws: number of bootstrap resamples.
      worst: number of videos of highest loss to show in the report.
      warnings: further caveats, shown before those of `result_notes`.

    Returns:
      All caveats.

    Raises:
      OSError: a file cannot be written.
    """
    notes = [*warnings, *result_notes(result, protocol)]
    names = video_names(dataset.paths)
    videos = tuple(names[video] for video in result.videos)
    report: dict[str, Any] = {
        **{name: number.value for name, number in numbers.items()},
        "intervals": {
            name: None if number.low is None else [number.low, number.high]
            for name, number in numbers.items()
        },
        "loss": result.loss,
        "protocol": facts["protocol"],
        "model": net.spec,
        "checkpoint": source,
        "videos": len(result.labels),
        "expected_videos": result.expected,
        "coverage": result.coverage,
        "unreadable_videos": len(result.broken),
        "broken": result.broken,
        "notes": notes,
        "views": dataclasses.asdict(protocol),
        "clip": dataclasses.asdict(protocol.apply(net.preprocessing)),
        "interval_level": 0.95,
        "bootstrap": {"draws": draws, "seed": 0},
        "seconds": round(result.seconds, 1),
        "data_wait": round(result.data_wait, 1),
        "versions": versions(),
    }
    found = Scores(result.scores, result.labels, dataset.classes, videos, result.label_sets)
    save_scores(out / SCORES, found)
    title = f"{net.name} on {facts['data'].partition(':')[0]}"
    page = evaluation_page(title, result, dataset, numbers, facts, notes, worst=worst)
    write_file(out / "report.html", page)
    write_file(out / "result.json", json.dumps(report, indent=2) + "\n")
    return notes
