"""`data`: what a data folder holds, before anything is trained on it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from jaxvideo.types import DataError, VideoError

_SAMPLES = 5
_FRAMES = 6
_SIDE = 128


def add(commands: Any) -> None:
    data = commands.add_parser(
        "data", help="a data folder's form, classes and counts, and some samples"
    )
    data.add_argument("root", metavar="ROOT", help="the folder with the annotations")
    data.add_argument("--form", default="auto", help="auto (default), csv, kinetics, ucf101, ...")
    data.add_argument("--fold", type=int, default=1, help="of a set with several splits (1)")
    data.add_argument("--videos", default="", metavar="DIR", help="where the videos are (ROOT)")
    data.add_argument("--sheet", metavar="OUT.png", help="a picture of the samples")
    data.set_defaults(run=_data)


def _data(options: argparse.Namespace) -> int:
    import numpy as np

    from jaxvideo.data.datasets.load import autodetect, load_splits

    form = autodetect(options.root) if options.form == "auto" else options.form
    splits = load_splits(options.root, form, fold=options.fold, videos=options.videos)
    classes = next(iter(splits.values())).classes
    more = ", ..." if len(classes) > 5 else ""
    print(f"{options.root}: form {form}, fold {options.fold}")
    print(f"{len(classes)} classes: {', '.join(classes[:5])}{more}")
    for split, dataset in splits.items():
        print(f"{split}: {dataset.coverage}")
        if not len(dataset):
            continue
        sets = dataset.label_sets or [(label,) for label in dataset.labels]
        counts = np.bincount([one for labels in sets for one in labels], minlength=len(classes))
        least, most = int(counts.argmin()), int(counts.argmax())
        print(f"  least: {classes[least]} ({counts[least]:,}), most: {classes[most]}", end="")
        print(f" ({counts[most]:,})" + ", several labels each" * bool(dataset.label_sets))
    split, dataset = next((s, d) for s, d in splits.items() if len(d))
    drawn = np.random.default_rng(0).choice(len(dataset), min(_SAMPLES, len(dataset)), False)
    print(f"samples of {split}:")
    rows, failed = [], 0
    for index in sorted(map(int, drawn)):
        labels = dataset.label_sets[index] if dataset.label_sets else (dataset.labels[index],)
        name = os.path.relpath(dataset.paths[index], options.root)
        title = _text(f"{', '.join(classes[label] for label in labels)}  {name}")
        try:
            with dataset.open(index) as video:
                rate = f"{video.fps:g} fps" if video.fps else "no frame rate"
                shape = f"{video.width} x {video.height}, {video.num_frames} frames, {rate}"
                rows.append((title, _frames(video) if options.sheet else ()))
            print(f"  {title}: {shape}")
        except VideoError as error:
            failed += 1
            rows.append((title, ()))
            print(f"  {title}: error: {_text(error)}")
    if options.sheet:
        _write_sheet(options.sheet, rows)
        print(f"contact sheet: {options.sheet}")
    return 1 if failed else 0


def _text(value: object) -> str:
    """What can be printed: names on a disk need not be UTF-8."""
    return str(value).encode("utf-8", "replace").decode()


def _frames(video) -> Sequence[Any]:
    """Pictures from a video's whole length, their middle square: uint8 `[n, side, side, 3]`."""
    import numpy as np

    from jaxvideo.data.decode import read_clip
    from jaxvideo.types import View, Window

    indices = np.linspace(0, video.num_frames - 1, min(_FRAMES, video.num_frames)).round()
    side = min(video.height, video.width)
    window = Window((video.height - side) // 2, (video.width - side) // 2, side, side)
    return read_clip(video, [View(tuple(int(i) for i in indices), window)], _SIDE)[0]


def _write_sheet(path: str, rows: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """A row of pictures per video, its label and name under it; gray where there are none."""
    import cv2
    import numpy as np

    line, gap = 20, 2
    width = _FRAMES * (_SIDE + gap)
    sheet = np.full((len(rows) * (_SIDE + line), width, 3), 255, np.uint8)
    for row, (title, frames) in enumerate(rows):
        top = row * (_SIDE + line)
        sheet[top : top + _SIDE] = 192
        for column, frame in enumerate(frames):
            left = column * (_SIDE + gap)
            sheet[top : top + _SIDE, left : left + _SIDE] = frame
        # OpenCV's letters are ASCII.
        text = title.encode("ascii", "replace").decode()
        place = (4, top + _SIDE + line - 6)
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    data = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
