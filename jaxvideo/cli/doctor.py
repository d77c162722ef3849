"""`doctor`: find broken videos in a data directory."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.scale import add_engine, chosen_engine
from jaxvideo.cli.shared import Column, add_command, add_formats, show_table
from jaxvideo.names import escape, one_line
from jaxvideo.progress import echo

# Printed lines per list; the report has all.
_LINES = 20

_COLUMNS = (
    Column("path", name=True),
    *map(Column, ("status", "reason", "frames", "fps", "codec")),
)


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "doctor",
        _doctor,
        "decode every video of a data directory and report broken ones, copies and leaks",
        "Writes doctor.html, index.jsonl (results so far; a repeated scan skips unchanged files) "
        "and quarantine.txt (broken videos, which training leaves out). Exit status 1 if a video "
        "is broken or has another number of frames than the annotations state.",
    )
    command.add_argument(
        "root", metavar="DATA", help="directory of videos, with or without annotations"
    )
    command.add_argument("--out", metavar="DIR", help="output directory (default: DATA)")
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="number of decoding threads (default: number of cores)",
    )
    command.add_argument(
        "--form",
        default="auto",
        help="annotation format: csv, kinetics, ucf101, ... (default: auto, recognize it)",
    )
    command.add_argument(
        "--fold",
        type=int,
        default=1,
        metavar="N",
        help="split number of UCF101, HMDB51 and the like (default: 1)",
    )
    command.add_argument(
        "--videos", default="", metavar="DIR", help="directory of the videos (default: DATA)"
    )
    add_engine(command)
    add_formats(command, "videos")


def _doctor(options: argparse.Namespace) -> int:
    import os
    import time
    from collections import Counter
    from pathlib import Path

    from jaxvideo.data import doctor
    from jaxvideo.progress import track, write_file
    from jaxvideo.report.doctor import doctor_page
    from jaxvideo.types import DataError

    root, out = options.root, Path(options.out or options.root)
    given = root, options.out, options.videos or None
    engine = chosen_engine(options, given, "threads", len(os.sched_getaffinity(0)), least=1)
    splits, missing, declared, paths = _videos(options)
    index, quarantine, report = (out / n for n in ("index.jsonl", "quarantine.txt", "doctor.html"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = index.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror}); choose another directory with --out"
        ) from error
    known, started = doctor.read_index(index, root), time.perf_counter()

    def keep(record: doctor.Record) -> None:
        if known.get(record.path) is not record:  # an interrupted scan resumes from the index
            file.write(doctor.index_line(record, root))
            file.flush()

    with file:
        records = doctor.scan(
            paths,
            engine,
            folder=out,
            known=known,
            progress=lambda videos: track(videos, "videos"),
            done=keep,
        )
    seconds = time.perf_counter() - started
    doctor.write_index(index, records, root)
    broken = doctor.write_quarantine(quarantine, records, root)
    found = doctor.Findings(
        copies=doctor.duplicates(records),
        leaks=doctor.leaks(records, splits),
        recordings=doctor.recordings(splits),
        wrong_counts=doctor.wrong_counts(records, declared),
        remarks=doctor.remark_counts(records),
    )
    write_file(report, doctor_page(root, records, splits, missing, found))

    counts = Counter(record.status for record in records)
    states = ", ".join(f"{counts[status]:,} {status}" for status in doctor.STATUSES)
    same = sum(known.get(record.path) is record for record in records)
    again = f", {same:,} unchanged since the last scan" * bool(same)
    if options.json or options.csv:
        rows = [(r.path, r.status, r.reason or None, r.frames, r.fps, r.codec) for r in records]
        facts = {
            "root": root,
            "counts": {status: counts[status] for status in doctor.STATUSES},
            "missing": missing,
            "in_several_splits": found.leaks,
            "copies": found.copies,
            "recordings_in_several_splits": found.recordings,
            "other_frame_counts": found.wrong_counts,
            "remarks": found.remarks,
            "report": str(report),
            "quarantine": str(quarantine) if broken else None,
        }
        show_table(options, _COLUMNS, rows, name="videos", facts=facts)
        return 1 if broken or found.wrong_counts else 0
    echo(f"{escape(root)}: {len(records):,} videos, {states} ({seconds:.1f} s{again})")
    for split, own in splits.items():
        gone = f", {len(missing[split]):,} missing" * bool(missing[split])
        echo(f"{split}: {len(own):,} videos{gone}")
    for status, copes in (
        (doctor.BROKEN, "training leaves them out"),
        (doctor.SUSPICIOUS, "training reads them"),
    ):
        own = [record for record in records if record.status == status]
        lines = [f"{_short(r.path, root)}: {one_line(r.reason)}" for r in own]
        _list(f"{status} ({copes})", lines)
    _list(
        "other frames than the annotations state (training stops)",
        [
            f"{_short(path, root)}: {stated} stated, {there} found"
            for path, stated, there in found.wrong_counts
        ],
    )
    _list(
        "in several splits (training reads them; accuracies are too high)",
        [_joined(root, group) for group in found.leaks],
    )
    _list(
        "recordings with clips in several splits (training reads them; accuracies are too high)",
        [
            f"{escape(name)}: " + ", ".join(f"{split} {count:,}" for split, count in own.items())
            for name, own in found.recordings
        ],
    )
    _list(
        "copies (training reads every copy)",
        [_joined(root, [("", path) for path in group]) for group in found.copies],
    )
    _list(
        "unusual (training copes with it)",
        [
            f"{count:,} video{'s' * (count > 1)}, for example {_short(path, root)}: {remark}"
            for remark, count, path in found.remarks
        ],
    )
    echo(f"report: {escape(str(report))}")
    if broken:
        place = out.resolve() / quarantine.name
        here = out.resolve() == Path(root).resolve()
        how = "" if here else f" with --data.quarantine={place}"
        text = f"quarantine: {quarantine}; `jaxvideo train` leaves these videos out{how}"
        echo(one_line(text))
    return 1 if broken or found.wrong_counts else 0


def _videos(options: argparse.Namespace):
    """Returns (paths by split, missing names by split, declared frames by path, all paths once)."""
    from pathlib import Path

    from jaxvideo.data.datasets.forms import annotation_files
    from jaxvideo.data.datasets.load import autodetect, load_splits
    from jaxvideo.data.video import find_videos
    from jaxvideo.types import DataError

    form = options.form
    if form == "auto":
        try:
            form = autodetect(options.root)
        except DataError:
            if not Path(options.root).is_dir() or annotation_files(Path(options.root)):
                raise
            return {}, {}, {}, find_videos([options.root])
    if form == "tfds":
        raise DataError(
            f"{options.root} is a packed or prepared data set; check the videos before packing"
        )
    how = {"fold": options.fold, "videos": options.videos}
    found = load_splits(options.root, form, **how, quarantine="", check_frames=False)
    splits = {split: dataset.paths for split, dataset in found.items()}
    missing = {split: dataset.missing for split, dataset in found.items()}
    declared = {
        path: count
        for dataset in found.values()
        for path, count in zip(dataset.paths, dataset.declared, strict=False)
    }
    paths = list(dict.fromkeys(path for own in splits.values() for path in own))
    return splits, missing, declared, paths


def _joined(root: str, group) -> str:
    return ", ".join(f"{split} {_short(path, root)}".strip() for split, path in group)


def _short(path: str, root: str) -> str:
    from jaxvideo.data.doctor import short_path

    return escape(short_path(path, root))


def _list(what: str, lines: list[str]) -> None:
    if lines:
        echo(f"{what}:")
    for line in lines[:_LINES]:
        echo(f"  {line}")
    if len(lines) > _LINES:
        echo(f"  and {len(lines) - _LINES:,} more, in the report")
