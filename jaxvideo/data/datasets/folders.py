"""Form "folders": a folder of videos per class, `train/CLASS/a.mp4` or `CLASS/a.mp4`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxvideo.data.datasets.annotations import Annotations, Found, indexed, split_named
from jaxvideo.data.datasets.form import Form, Source, given_classes
from jaxvideo.data.video import Ignored, is_video, videos_below
from jaxvideo.progress import LOG
from jaxvideo.types import DataError

LAYOUT = "train/CLASS/a.mp4 and val/CLASS/b.mp4, or CLASS/a.mp4 (a fifth is used for validation)"

# Validation share of each class if there are no folders of splits.
_VAL_SHARE = 0.2

# Names of clips that were cut from one recording: UCF101 (v_Archery_g01_c02), Kinetics (YouTube id,
# start and end) and HMDB51 (April_09_brush_hair_u_nm_np1_ba_goo_0).
_GROUPS = (
    re.compile(r"(.+_g\d+)_c\d+"),
    re.compile(r"(.{11})_\d{6}_\d{6}"),
    re.compile(r"(.+)_[a-z]_(?:nm|cm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+"),
)


def _matches(root: Path) -> bool:
    return next(_class_videos(root, Ignored()), None) is not None


def _read(source: Source) -> Annotations:
    below: dict[str, dict[str, list[str]]] = {}
    ignored = Ignored()
    for split, name, video in _class_videos(source.root, ignored):
        below.setdefault(split, {}).setdefault(name, []).append(video)
    ignored.log(source.root)
    if not {"", "train"} & set(below):
        raise DataError(
            f"{source.root}: no training folder of videos or of folders of frames; expected: "
            f"{LAYOUT}"
        )
    if "" in below:
        below = _divide(below[""], source.fold)
        _log_division(source.root, below)
    found: Found = {
        split: [
            (f"{source.root}, {split}", video, [name])
            for name, videos in sorted(folders.items())
            for video in videos
        ]
        for split, folders in below.items()
    }
    # Folders named 1, 2, 3 are class names, not indices.
    classes = given_classes(source) or tuple(sorted(below["train"]))
    return indexed(found, classes, anywhere=False)


def _class_videos(root: Path, ignored: Ignored) -> Iterator[tuple[str, str, str]]:
    """Yields (split, class, path relative to `root`) of all videos in class folders.

    The split is "" if `root` has no folders for splits.
    """
    splits = {split: name for name in _folders_in(root) if (split := split_named(name))}
    tops = splits if "train" in splits else {"": "."}
    for split, top in tops.items():
        for name in _folders_in(root / top):
            for video in _videos_in(root, f"{top}/{name}".removeprefix("./"), ignored):
                yield split, name, video


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir())


def _videos_in(root: Path, folder: str, ignored: Ignored) -> Iterator[str]:
    """Yields the videos of a class, relative to `root`; images beside them are no frames."""
    with os.scandir(root / folder) as entries:
        inside = sorted((e.name, e.is_dir()) for e in entries)
    for name, is_folder in inside:
        path = f"{folder}/{name}"
        if is_folder and not name.startswith("."):
            for found in videos_below(str(root / path), ignored):
                yield os.path.relpath(found, root).replace(os.sep, "/")
        elif not is_folder and is_video(name):
            yield path
        elif not is_folder:
            ignored.add(name)


def _divide(classes: Mapping[str, list[str]], seed: int) -> dict[str, dict[str, list[str]]]:
    """Assigns a fifth of each class to validation, depending only on seed and path.

    Clips of one recording (`group_of`) stay together if a class has several recordings. A class
    of two or more videos has at least one in validation. The order of a directory listing and the
    files of other classes have no influence.
    """

    def drawn(path: str) -> bytes:
        return hashlib.sha256(f"{seed}:{path}".encode(errors="surrogateescape")).digest()

    splits: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}}
    for name, videos in classes.items():
        groups: dict[str, list[str]] = {}
        for video in videos:
            groups.setdefault(group_of(video) or video, []).append(video)
        if len(groups) == 1:
            groups = {video: [video] for video in videos}
        left = max(round(_VAL_SHARE * len(videos)), 1) if len(videos) > 1 else 0
        chosen: set[str] = set()
        for group in sorted(groups, key=drawn):
            # A group that is larger than what is left is taken only if there is none yet.
            if left > 0 and (len(groups[group]) <= left or not chosen):
                chosen.update(groups[group])
                left -= len(groups[group])
        splits["train"][name] = [video for video in videos if video not in chosen]
        splits["val"][name] = [video for video in videos if video in chosen]
    return splits


def group_of(path: str) -> str:
    """Returns the recording that a clip was cut from, by the name of the file; "" if unknown.

    The names of UCF101, Kinetics and HMDB51 contain it.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    found = next((match for form in _GROUPS if (match := form.fullmatch(stem))), None)
    return found[1] if found else ""


def _log_division(root: Path, below: Mapping[str, Mapping[str, list[str]]]) -> None:
    counts = {split: sum(map(len, own.values())) for split, own in below.items()}
    videos = [video for own in below.values() for group in own.values() for video in group]
    groups = sum(bool(group_of(video)) for video in videos)
    LOG.info(
        f"{root}: no train/ and val/; {counts['val']:,} of {len(videos):,} videos are used for "
        "validation" + ", whole recordings by their names" * bool(groups)
    )
    if groups < len(videos):
        LOG.warning(
            f"{root}: validation videos are selected by file. If several files are clips of one "
            "recording, the accuracy is too high; give the splits as train/CLASS and val/CLASS"
        )


FORM = Form(layout=LAYOUT, read=_read, matches_folder=_matches, folds=True)
