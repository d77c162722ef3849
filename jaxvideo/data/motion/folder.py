"""Write the embedded data set into a cached folder, once and resumably."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from jaxvideo.data.motion.encoding import encode, find_codec
from jaxvideo.data.motion.photos import faces, horse, photos
from jaxvideo.data.motion.scene import render
from jaxvideo.data.motion.spec import CLASSES, SPLITS, VERSION
from jaxvideo.progress import LOG, bar
from jaxvideo.startup import cache_directory
from jaxvideo.types import DataError

try:
    import fcntl
except ImportError:  # Windows: files are still replaced atomically, but processes do not wait
    fcntl = None

_DONE, _BEGUN, _LOCK = "motion.json", ".motion.begun.json", ".motion.lock"
_TEMPORARY = ".motion-tmp-"

_ADVICE = " Set JAXVIDEO_CACHE to a folder that is writable and has space."


def ensure_motion(
    root: str | os.PathLike | None = None,
    *,
    train: int = 1200,
    val: int = 320,
    seed: int = 0,
    threads: int | None = None,
) -> Path:
    """Returns the folder of the motion data set, and writes it if it does not exist yet.

    If interrupted at any moment, even by SIGKILL, the next call completes it. If two processes
    call it at the same time, one writes and the other waits. The files depend on `train`, `val`,
    `seed` and the library versions, never on `threads`.

    Args:
      root: the folder. It must be absent, empty, or a motion set with the same parameters.
        Default: `motion-v<version>-<train>-<val>-<seed>` in `startup.cache_directory()`.
      train, val: number of videos; must be a multiple of 8, so that the classes are balanced.
      seed: 0 or more.
      threads: number of videos rendered in parallel. Default: the cores this process may use.

    Returns:
      The folder.

    Raises:
      DataError: counts, seed or threads out of range; scikit-image is not installed; the folder
        contains other files or a set with other parameters, or cannot be written.
    """
    if threads is not None and threads < 1:
        raise DataError(f"threads={threads} must be at least 1")
    wanted = {"version": VERSION, "train": train, "val": val, "seed": seed}
    folder, finished = check_motion(root, train=train, val=val, seed=seed)
    if finished:  # without the lock: a finished set may be read-only
        return folder
    advice = _ADVICE * (root is None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder) as alone:
            if not _finished(folder, wanted):
                _write_set(folder, wanted, threads or _num_cores(), alone)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write the motion set to {folder}: {reason}.{advice}") from error
    return folder


def check_motion(
    root: str | os.PathLike | None = None, *, train: int = 1200, val: int = 320, seed: int = 0
) -> tuple[Path, bool]:
    """Checks the arguments of `ensure_motion` and what it needs; writes nothing.

    Returns:
      The folder, and True if it holds the complete set.

    Raises:
      DataError: see `ensure_motion`.
    """
    if train % len(CLASSES) or val % len(CLASSES) or train < 0 or val < 0:
        raise DataError(f"train={train} and val={val} must be multiples of {len(CLASSES)}")
    if seed < 0:
        raise DataError(f"seed={seed} must be at least 0")
    name = f"motion-v{VERSION}-{train}-{val}-{seed}"
    folder = cache_directory() / name if root is None else Path(root)
    try:
        finished = _finished(folder, {"version": VERSION, "train": train, "val": val, "seed": seed})
    except OSError as error:
        reason, advice = error.strerror or error, _ADVICE * (root is None)
        raise DataError(f"{folder} cannot be read: {reason}.{advice}") from error
    if not finished:
        # Anything that is not installed raises here, before a folder exists.
        find_codec()
        for split in SPLITS:
            photos(split)
        faces()
        horse()
    return folder, finished


def _num_cores() -> int:
    # The cores of this process, not of the machine: cluster jobs get a few of many. Beyond eight
    # threads the GIL is the limit.
    allowed = getattr(os, "sched_getaffinity", None)
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, 8)


def _videos(split: str, count: int) -> Iterator[tuple[int, str]]:
    """Yields the numbers of a split's videos and their paths relative to the root."""
    for number in range(count):
        yield number, f"{split}/{CLASSES[number % len(CLASSES)]}/{number:05d}.mp4"


def _finished(folder: Path, wanted: dict[str, int]) -> bool:
    """True if `folder` is the complete set, False if it is part of it; else raises DataError."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return False
    ours = [name for name in (_DONE, _BEGUN) if name in names]
    if not ours:
        if all(name == _LOCK or name.startswith(_TEMPORARY) for name in names):
            return False
        raise DataError(f"{folder} is neither empty nor a motion set: use another folder")
    for name in ours:
        try:
            found = json.loads((folder / name).read_text())
        except FileNotFoundError:  # another process has just finished and renamed it
            return _finished(folder, wanted)
        except ValueError as error:
            raise DataError(f"{folder / name} is not valid JSON: delete the folder") from error
        if found != wanted:
            raise DataError(
                f"{folder} contains the motion set {found}, not {wanted}: use another folder"
            )
    return (
        _BEGUN not in names
        and {"train.csv", "val.csv", "classes.txt"} <= names
        and not _missing(folder, wanted)
    )


def _missing(folder: Path, wanted: dict[str, int]) -> list[tuple[str, int, str]]:
    """Returns (split, number, relative path) of every video that is absent or empty."""
    present = set()
    for split in SPLITS:
        for name in CLASSES:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder / split / name) as files:
                # A power failure can leave a name without content.
                present |= {f"{split}/{name}/{f.name}" for f in files if f.stat().st_size > 0}
    return [
        (split, number, path)
        for split in SPLITS
        for number, path in _videos(split, wanted[split])
        if path not in present
    ]


def _write_set(folder: Path, wanted: dict[str, int], threads: int, alone: bool) -> None:
    parameters = json.dumps(wanted) + "\n"
    _replace(folder / _BEGUN, parameters.encode())
    if alone:  # otherwise another process may be writing them
        for path in folder.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)
    for split in SPLITS:
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)

    def write(split: str, number: int, path: str) -> None:
        frames, _ = render(wanted["seed"], split, number)
        _replace(folder / path, encode(frames))

    todo = _missing(folder, wanted)
    LOG.info(f"rendering {len(todo)} motion videos (once) into {folder}")
    pool = ThreadPoolExecutor(threads)
    try:
        pending = {pool.submit(write, *video) for video in todo}
        with bar(len(todo), "videos") as update:
            update(0)
            while pending:
                # FIRST_EXCEPTION: a full disk is reported at once, not after 1,500 failures.
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                update(len(todo) - len(pending))
    finally:
        pool.shutdown(cancel_futures=True)

    for split in SPLITS:
        lines = (f"{path} {path.split('/')[1]}\n" for _, path in _videos(split, wanted[split]))
        _replace(folder / f"{split}.csv", "".join(lines).encode())
    _replace(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    # Marks the set as complete, so it is written last.
    os.replace(folder / _BEGUN, folder / _DONE)


def _replace(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Locks the folder against other processes; yields False if that is not possible.

    The lock belongs to the kernel and ends with its process, so SIGKILL leaves none behind.
    Without one (Windows, some network file systems) two processes render the same videos, and
    each file is still replaced atomically with equal bytes.
    """
    with open(folder / _LOCK, "a") as file:
        if fcntl is None:
            yield False
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            LOG.info(f"waiting for another process that is writing {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
