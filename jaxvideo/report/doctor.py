"""Page of `doctor`: counts, broken videos, copies and leaks."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvideo.data.doctor import BROKEN, STATUSES, SUSPICIOUS, Findings, Record, short_path
from jaxvideo.names import escape
from jaxvideo.report.page import page, table, text

# Maximum number of rows per table; the index has all.
_ROWS = 1000

_BARS = 12

_STYLE = """<style>
.tiles { display: flex; gap: 1rem; flex-wrap: wrap; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: .5rem 1rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.bar { display: grid; grid-template-columns: 9rem 1fr 5rem; gap: .5rem; align-items: center; }
.bar i { background: var(--accent); height: .8rem; border-radius: 2px; }
.bar span { font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; }
</style>"""


def doctor_page(
    root: str,
    records: Sequence[Record],
    splits: Mapping[str, Sequence[str]],
    missing: Mapping[str, Sequence[str]],
    found: Findings,
) -> str:
    """Builds the HTML document.

    Args:
      root: data directory.
      records: results of the scan.
      splits: existing paths of each split.
      missing: missing names of each split.
      found: what concerns several videos or the annotations.
    """
    counts = collections.Counter(record.status for record in records)
    tiles = [(len(records), "videos"), *((counts[status], status) for status in STATUSES)]
    tiles += [(len(found.copies), "groups of copies"), (len(found.leaks), "in several splits")]
    body = _STYLE + '<div class="tiles">'
    body += "".join(f'<div class="tile"><b>{n:,}</b>{text(name)}</div>' for n, name in tiles)
    body += "</div>"
    if splits:
        body += "<h2>Splits</h2>" + table(
            ("split", "videos", "missing"),
            [(name, len(paths), len(missing.get(name, ()))) for name, paths in splits.items()],
        )
    whole = [record for record in records if record.frames]
    if whole:
        body += '<h2>Properties</h2><div class="charts">' + _charts(whole) + "</div>"
    for status, why in (
        (
            BROKEN,
            "At least one clip of each cannot be read. They are in the quarantine list, so that "
            "training leaves them out.",
        ),
        (SUSPICIOUS, "All frames can be read, but the file is inconsistent. Training reads them."),
    ):
        own = [record for record in records if record.status == status]
        if own:
            rows = [(_name(r.path, root), r.frames, r.packets, r.reason) for r in own]
            body += f"<h2>{status.capitalize()}</h2><p>{why}</p>"
            body += _table(("video", "decoded", "promised", "reason"), rows)
    if found.wrong_counts:
        body += "<h2>Other frames than the annotations state</h2><p>Training stops.</p>"
        rows = [(_name(path, root), stated, there) for path, stated, there in found.wrong_counts]
        body += _table(("video", "stated", "found"), rows)
    if found.leaks:
        body += "<h2>In several splits</h2><p>Training and test data overlap.</p>"
        rows = [
            (number, split, _name(path, root))
            for number, group in enumerate(found.leaks, 1)
            for split, path in group
        ]
        body += _table(("group", "split", "video"), rows)
    if found.recordings:
        body += "<h2>Recordings with clips in several splits</h2>"
        body += "<p>Training reads them, and accuracies are too high.</p>"
        rows = [
            (escape(name), ", ".join(f"{split} {count:,}" for split, count in own.items()))
            for name, own in found.recordings
        ]
        body += _table(("recording", "clips"), rows)
    if found.copies:
        body += "<h2>Copies</h2><p>Identical files. Training reads every copy.</p>"
        rows = [
            (number, _name(path, root))
            for number, group in enumerate(found.copies, 1)
            for path in group
        ]
        body += _table(("group", "video"), rows)
    if found.remarks:
        body += "<h2>Unusual</h2><p>No fault: training copes with it.</p>"
        rows = [(remark, count, _name(path, root)) for remark, count, path in found.remarks]
        body += _table(("property", "videos", "for example"), rows)
    return page(f"Videos of {escape(root)}", body)


def _charts(records: Sequence[Record]) -> str:
    sizes = collections.Counter(f"{r.width} x {r.height}" for r in records)
    rates = collections.Counter(f"{r.fps:.4g}" if r.fps else "unknown" for r in records)
    codecs = collections.Counter(
        f"{r.codec} {r.pixel_format}" + f", rotated {r.rotation}" * bool(r.rotation)
        for r in records
    )
    variable = sum(r.variable for r in records)
    return "".join(
        (
            _chart("Frames", _bins([r.frames for r in records])),
            _chart("Width x height", _most(sizes)),
            _chart(f"Frames per second ({variable:,} variable)", _most(rates)),
            _chart("Frames per key frame", _bins([r.gop for r in records])),
            _chart("Codec", _most(codecs)),
        )
    )


def _most(counts: collections.Counter[str]) -> list[tuple[str, int]]:
    found = counts.most_common()
    rest = sum(count for _, count in found[_BARS:])
    return found[:_BARS] + [(f"{len(found) - _BARS} others", rest)] * bool(rest)


def _bins(values: Sequence[int]) -> list[tuple[str, int]]:
    low, high = min(values), max(values)
    edges = np.unique(np.linspace(low, high + 1, _BARS + 1).astype(int))
    counts, _ = np.histogram(values, edges)
    ends = [(first, last - 1) for first, last in itertools.pairwise(edges)]
    names = [f"{first} to {last}" if last > first else f"{first}" for first, last in ends]
    return [(name, int(count)) for name, count in zip(names, counts, strict=True)]


def _chart(title: str, counts: Sequence[tuple[str, int]]) -> str:
    most = max(count for _, count in counts)
    lines = "".join(
        f'<div class="bar"><span>{text(name)}</span>'
        f'<i style="width:{100 * count / most:.1f}%"></i><span>{count:,}</span></div>'
        for name, count in counts
    )
    return f"<section><h3>{text(title)}</h3>{lines}</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    left = len(rows) - _ROWS
    return table(heads, rows[:_ROWS]) + f"<p>and {left:,} more in the index</p>" * (left > 0)


def _name(path: str, root: str) -> str:
    return escape(short_path(path, root))
