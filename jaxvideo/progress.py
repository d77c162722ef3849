"""Logging, progress bars and atomic file writes: one of each for the whole library.

Library functions log to `LOG` and report long work through `bar` or `track`. They never print and
never configure logging. A program (the command line, `train.py`, a notebook) shows both with
`console`. This module never imports JAX, because data and loader code use it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

from jaxvideo import names

T = TypeVar("T")

#: The logger of the library.
LOG = logging.getLogger("jaxvideo")

#: Names of temporary files begin with this. After SIGKILL such a file may be left; delete it.
TEMPORARY = ".tmp-"

# Seconds between two updates of a bar on a terminal. Its rate is a mean over the last updates.
_REFRESH, _SMOOTHED = 0.5, 12

_PREFIXES = ((logging.ERROR, "error: "), (logging.WARNING, "warning: "))

_SHOWN: list[_Console] = []
_SILENT = [False]
_OPEN_BARS = [0]


# --- Logging --------------------------------------------------------------------------------


class _Console(logging.Handler):
    """Writes INFO to `stream`, and warnings and errors to stderr."""

    def __init__(self, stream: TextIO | None):
        super().__init__(logging.INFO)
        self.given = stream

    @property
    def stream(self) -> TextIO:
        return self.given or sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        severe = record.levelno >= logging.WARNING
        if _SILENT[0] and not severe:
            return
        prefix = next((text for level, text in _PREFIXES if record.levelno >= level), "")
        file = sys.stderr if severe else self.stream
        try:
            _write_line(file, prefix + self.format(record))
        except BrokenPipeError:
            drop_output(file)


@contextlib.contextmanager
def console(stream: TextIO | None = None) -> Iterator[None]:
    """Shows the log and the progress bars of the library inside the block.

    A closed output pipe (`| head`) does not stop the program: later lines are discarded.

    Args:
      stream: receives INFO lines and progress; default: stderr. Warnings and errors always go to
        stderr.

    Example:
      >>> import sys
      >>> with console(sys.stdout):
      ...     LOG.info("3 videos")
      3 videos
    """
    handler = _Console(stream)
    level, propagate = LOG.level, LOG.propagate
    LOG.addHandler(handler)
    LOG.setLevel(min(level or logging.INFO, logging.INFO))
    LOG.propagate = False  # otherwise a handler of the root logger would repeat every line
    _SHOWN.append(handler)
    try:
        yield
    finally:
        _SHOWN.remove(handler)
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        LOG.propagate = propagate


def silence() -> None:
    """Discards INFO lines and progress of this process. Warnings and errors are still shown.

    Every process of a distributed run except the first calls it.
    """
    _SILENT[0] = True


def echo(text: str = "") -> None:
    """Writes one line of a command's result to stdout and flushes it.

    Characters that the encoding of stdout lacks are escaped, see `jaxvideo.names`. Pass a file name
    through `names.escape`, since it may contain line breaks.

    Raises:
      BrokenPipeError: the reader of stdout has closed it.

    Example:
      >>> echo("2 videos")
      2 videos
    """
    _write_line(sys.stdout, text)


def drop_output(stream: TextIO | None = None) -> None:
    """Discards everything written to `stream` (default: stdout) from now on."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (stream or sys.stdout).fileno())
        os.close(nowhere)


def _write_line(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, names.ESCAPED).decode(encoding)
    # An open bar is removed from the terminal, and drawn again below the line.
    aside = _bar_class().external_write_mode(stream) if _OPEN_BARS[0] else contextlib.nullcontext()
    with aside:
        stream.write(f"{text}\n")
        stream.flush()


# --- Progress -------------------------------------------------------------------------------


class Update(Protocol):
    """Reports progress to a bar.

    Args:
      done: amount of work done so far, in the unit of `total`.
      waited: seconds spent waiting for data since the previous call; None if not measured.
      note: maps the current rate (counts per second, 0 if unknown) to text for the end of the
        line. It is called only if the line is shown.
      idle: the time since the previous call does not count, for instance that of a validation.
    """

    def __call__(
        self,
        done: int,
        *,
        waited: float | None = None,
        note: Callable[[float], str] | None = None,
        idle: bool = False,
    ) -> None: ...


@contextlib.contextmanager
def bar(
    total: int,
    what: str,
    *,
    unit: str = "",
    units: float = 1,
    done: int = 0,
    every: float = 5.0,
) -> Iterator[Update]:
    """Shows the progress of long work: `videos 12/40  3.1 videos/s  data wait 5 %  ETA 0:09`.

    Inside `console` on a terminal this is a bar; otherwise a line is logged every few seconds.
    Measurement starts with the first update, because the work before it includes compilation.

    Args:
      total: amount of work.
      what: name of the counted work, in the plural.
      unit: unit of the rate; default: `what`.
      units: number of such units in one count, for instance clips per training step.
      done: amount done before, for resumed work.
      every: seconds between two lines in a log; 0 logs every update.

    Yields:
      The function that reports progress, see `Update`.

    Example:
      >>> with bar(2, "steps", unit="clips", units=32) as update:
      ...     for step in (1, 2):
      ...         update(step, waited=0.1)
    """
    drawn = _draw(total, done)
    every = _REFRESH if drawn else every
    # (seconds, done, waited) of the updates that were shown; idle time is left out.
    marks: collections.deque = collections.deque(maxlen=_SMOOTHED if drawn else 2)
    first: tuple[float, int] | None = None
    latest, idling, waiting, measured = time.perf_counter(), 0.0, 0.0, False

    def update(done, *, waited=None, note=None, idle=False) -> None:
        nonlocal first, latest, idling, waiting, measured
        now = time.perf_counter()
        idling += (now - latest) * idle
        latest, now = now, now - idling
        if waited is not None and first:
            waiting, measured = waiting + waited, True
        if first is None:
            first = now, done
            marks.append((now, done, 0.0))
            if not drawn:
                return
        elif now - marks[-1][0] < every:
            return
        else:
            marks.append((now, done, waiting))
        (start, before, earlier), (end, after, later) = marks[0], marks[-1]
        seconds, counted = end - start, after - before
        rate = counted / seconds if seconds else 0.0
        parts = [f"{what} {done}/{total}"]
        if rate:
            parts.append(f"{rate * units:.4g} {unit or what}/s")
            if measured:
                parts.append(f"data wait {100 * (later - earlier) / seconds:.0f} %")
            mean = (done - first[1]) / (now - first[0])
            parts.append(f"ETA {duration((total - done) / mean)}")
        if note:
            parts.append(note(rate))
        text = "  ".join(part for part in parts if part)
        if drawn:
            drawn.n, drawn.desc = done, text
            drawn.refresh()
        else:
            LOG.info(text)

    try:
        yield update
    finally:
        if drawn:
            drawn.close()
            _OPEN_BARS[0] -= 1


def track(items: Sequence[T] | Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields the items and shows the progress, see `bar`.

    Args:
      what: name of the items in the plural, such as "videos".
      total: number of items; default: `len(items)`.

    Example:
      >>> [2 * number for number in track([1, 2], "numbers")]
      [2, 4]
    """
    total = len(items) if total is None else total  # pyright: ignore[reportArgumentType]
    with bar(total, what) as update:
        for done, item in enumerate(items, 1):
            yield item
            update(done)


def drawing() -> bool:
    """Returns True while a bar is on the terminal, so that the cursor is not at a line start."""
    return _OPEN_BARS[0] > 0


def duration(seconds: float) -> str:
    """Formats seconds as `2:03` or `1:02:03`.

    Example:
      >>> duration(3723)
      '1:02:03'
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _draw(total: int, done: int) -> Any:
    """Returns a new bar on the console's terminal; None if there is no terminal."""
    if not _SHOWN or _SILENT[0]:
        return None
    stream = _SHOWN[-1].stream
    if not stream.isatty():
        return None
    _OPEN_BARS[0] += 1
    return _bar_class()(
        total=total,
        initial=done,
        file=stream,
        leave=False,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}% |{bar:24}| {desc}",
    )


@functools.cache
def _bar_class() -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no background thread

    Bar.set_lock(threading.RLock())  # the default is a semaphore shared with other processes
    return Bar


# --- Files ----------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replaces a file atomically: readers see either the old or the new content.

    Yields the path of an empty temporary file in the same directory. After the block it is
    flushed to disk and renamed to `path`; if the block raises, it is deleted and `path` keeps its
    content. The mode follows the umask. A symbolic link is followed, not replaced.

    Raises:
      OSError: the file cannot be written.

    Example:
      >>> import tempfile
      >>> target = Path(tempfile.mkdtemp(), "a.bin")
      >>> with replacing(target) as temporary:
      ...     _ = temporary.write_bytes(b"12")
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(TEMPORARY + secrets.token_hex(8))
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        # The block may have created the file again, with another mode.
        if temporary.stat().st_mode & 0o777 != mode:
            temporary.chmod(mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file atomically, see `replacing`. Text is encoded as UTF-8.

    Bytes of file names that are not UTF-8 (surrogate escapes) are written as they were.

    Raises:
      OSError: the file cannot be written.

    Example:
      >>> import tempfile
      >>> write_file(Path(tempfile.mkdtemp(), "a.txt"), "text")
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
