"""Results of single videos on disk, so that interrupted work over many videos resumes.

Every process writes its own files, each complete or absent. All processes read all files when they
start, hence the work may resume with another number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxvideo.progress import LOG, write_file
from jaxvideo.types import ConfigError

#: Numbers of one video (f32, the same shape for all videos), and the number of its clips.
Row = tuple[np.ndarray, int]

# Seconds of work that are lost at most.
_SECONDS = 20.0

# Fields of a file that cannot be parsed raise various errors.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Partial:
    """Rows of the videos that are finished.

    Attributes:
      folder: directory of the files; created by the first write.
      recipe: everything that determines the rows, see `inference.features.recipe_of`. Files of
        another recipe are ignored.
    """

    folder: Path
    recipe: str

    def read(self) -> dict[str, Row]:
        """Returns the rows by path. Videos that have changed since are left out."""
        found: dict[str, Row] = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                about, rows = unpack_rows(path.read_bytes())
                same = about["recipe"] == self.recipe
                stamps = about["stamps"]
            except _DAMAGED:
                LOG.warning(f"{path} is damaged; its videos are computed again")
                continue
            if same:
                found |= {name: row for name, row in rows.items() if stamps[name] == _stamp(name)}
        return found

    @contextlib.contextmanager
    def writer(self) -> Iterator[Callable[[str, Row], None]]:
        """Yields a function that keeps the row of a path; it is on disk after some seconds.

        Raises:
          ConfigError: the directory cannot be written.
        """
        rows: dict[str, Row] = {}
        written = time.monotonic()

        def flush() -> None:
            nonlocal written
            written = time.monotonic()
            if not rows:
                return
            about = {"recipe": self.recipe, "stamps": {name: _stamp(name) for name in rows}}
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_file(self.folder / f"{secrets.token_hex(8)}.npz", pack_rows(rows, about))
            except OSError as error:
                raise ConfigError(
                    f"{self.folder} cannot be written ({error.strerror or error})"
                ) from error
            rows.clear()

        def keep(name: str, row: Row) -> None:
            rows[name] = row
            if time.monotonic() - written > _SECONDS:
                flush()

        try:
            yield keep
        finally:
            flush()

    def delete(self) -> None:
        """Deletes all files, when the results of the whole work are on disk."""
        for path in self.folder.glob("*.npz"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files are in it
            self.folder.rmdir()


def pack_rows(rows: Mapping[str, Row], about: Mapping[str, object] | None = None) -> bytes:
    """Returns rows by name as bytes, with further JSON values.

    Example:
      >>> unpack_rows(pack_rows({"a.mp4": (np.float32([1, 2]), 3)}))
      ({}, {'a.mp4': (array([1., 2.], dtype=float32), 3)})
    """
    text = json.dumps({"about": about or {}, "names": list(rows)})
    file = io.BytesIO()
    np.savez(
        file,
        text=np.frombuffer(text.encode(), np.uint8),
        values=np.array([values for values, _ in rows.values()], np.float32),
        clips=np.array([clips for _, clips in rows.values()], np.int64),
    )
    return file.getvalue()


def unpack_rows(content: bytes) -> tuple[dict, dict[str, Row]]:
    """Returns the further values and the rows of `pack_rows`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        text = json.loads(bytes(file["text"]))
        pairs = zip(file["values"], file["clips"].tolist(), strict=True)
        return text["about"], dict(zip(text["names"], pairs, strict=True))


def _stamp(path: str) -> list[int] | None:
    """Returns what changes with a file; None for videos that are no files, such as records."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
