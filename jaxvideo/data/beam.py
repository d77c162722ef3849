"""The engine "beam" of `engines`: blocks of items on the workers of Apache Beam (extra [beam]).

A pipeline transports numbers of blocks only. The items and the results are files of a temporary
directory that all workers see: runners limit the size of a pipeline's description (Dataflow: 20
MB), and the result of a finished block can be used, and survives, while the pipeline still runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxvideo.names import did_you_mean
from jaxvideo.progress import write_file
from jaxvideo.types import ConfigError, DataError, JaxvideoError, UsageError

#: Names of the temporary directories begin with this. After SIGKILL one may be left; delete it.
TEMPORARY = ".beam-"

# Seconds between two looks for results.
_PAUSE = 0.2

# Its job server defines further options, which Beam's Python package does not know.
_PORTABLE = ("Flink", "Spark", "Portable", "Prism", "Samza")

# Otherwise every worker warns about its own start.
_QUIET = "--default_sdk_harness_log_level=ERROR"


def check_options(options: Sequence[str]) -> None:
    """Checks pipeline options before any work is done.

    Raises:
      ConfigError: the extra [beam] is not installed.
      UsageError: an option is unknown or has a wrong value.
    """
    _pipeline(options)


def map_blocks(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    options: Sequence[str],
    *,
    folder: Path,
    block: int,
) -> Generator[tuple[int, Any]]:
    """Yields `(index, function(item))` while a pipeline computes; see `engines.map_items`."""
    if not items:
        return
    import apache_beam

    pipeline = _pipeline(options)
    numbers = range(-(-len(items) // block))
    with _temporary(folder) as shared:
        for number in numbers:
            part = items[number * block : (number + 1) * block]
            Path(shared, f"items-{number}").write_bytes(pickle.dumps(part))
        blocks = pipeline | "blocks" >> apache_beam.Create(list(numbers))
        blocks | "compute" >> apache_beam.Map(_Block(function, os.fspath(shared)))
        with _running(pipeline) as run:
            for number, found in _results(shared, numbers, run):
                if isinstance(found, JaxvideoError):
                    raise found
                for place, value in enumerate(found):
                    yield number * block + place, value


@dataclasses.dataclass(frozen=True)
class _Block:
    """Computes the items of a block on a worker."""

    function: Callable[[Any], Any]
    folder: str

    def __call__(self, number: int) -> None:
        folder = Path(self.folder)
        try:
            items = pickle.loads((folder / f"items-{number}").read_bytes())
        except FileNotFoundError:
            return  # the call has ended, or the directory is not shared, which `_results` reports
        try:
            found: Any = [self.function(item) for item in items]
        except JaxvideoError as error:
            found = error
        with contextlib.suppress(FileNotFoundError):  # the call has ended
            write_file(folder / f"results-{number}", pickle.dumps(found))


@dataclasses.dataclass(eq=False)
class _Run:
    """A pipeline that runs in a thread.

    Attributes:
      ended: set when the pipeline ends.
      error: the error that ended it.
      job: Beam's handle; None until the pipeline is submitted, which local runners do at its end.
    """

    ended: threading.Event = dataclasses.field(default_factory=threading.Event)
    error: BaseException | None = None
    job: Any = None


@contextlib.contextmanager
def _running(pipeline: Any) -> Iterator[_Run]:
    """Runs a pipeline; cancels it if the block raises."""
    run = _Run()

    def work() -> None:
        try:
            run.job = pipeline.run()
            run.job.wait_until_finish()
        except BaseException as error:
            run.error = error
        finally:
            run.ended.set()

    thread = threading.Thread(target=work, name="beam", daemon=True)
    thread.start()
    try:
        with _silenced(logging.getLogger("apache_beam")):
            yield run
    except BaseException:
        if run.job is not None and not run.ended.is_set():
            with contextlib.suppress(Exception):  # local runners cannot cancel
                run.job.cancel()
        raise
    thread.join()


def _results(shared: Path, numbers: Sequence[int], run: _Run) -> Iterator[tuple[int, Any]]:
    """Yields (number of the block, its results) of every block once."""
    missing = set(numbers)
    while missing:
        ended = run.ended.is_set()
        # At the end files are opened by name, since listings of network file systems may be old.
        names = [f"results-{n}" for n in missing] if ended else os.listdir(shared)
        for name in names:
            kind, _, number = name.partition("-")
            if kind != "results" or int(number) not in missing:
                continue
            path = shared / name
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            yield int(number), pickle.loads(content)
            missing.discard(int(number))
            path.unlink(missing_ok=True)
        if not ended:
            run.ended.wait(_PAUSE)
        elif missing and run.error:
            raise DataError(f"the Beam pipeline failed: {_cause(run.error)}") from run.error
        elif missing:
            raise DataError(
                f"the Beam pipeline ended, but {len(missing)} of {len(numbers)} results are not in "
                f"{shared.parent}; all workers must see the same directory under this path"
            )


def _cause(error: BaseException) -> str:
    """Returns the last line of an error, which with Beam follows the workers' tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text.partition(" [while running")[0]


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    shared = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shared = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.absolute()))
        shared.chmod(0o755)  # workers may run as another user
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error})") from error
    try:
        yield shared
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _pipeline(options: Sequence[str]) -> Any:
    parsed = _parsed(options)
    import apache_beam

    try:
        return apache_beam.Pipeline(options=parsed)
    except ValueError as error:  # an unknown runner, or one that needs further options
        raise UsageError(f"pipeline options of Beam: {error}") from error


def _parsed(options: Sequence[str]) -> Any:
    """Returns Beam's pipeline options, and refuses those that Beam would ignore."""
    try:
        with _silenced(logging.getLogger()):
            from apache_beam.options import pipeline_options as beam
    except ImportError as error:
        raise ConfigError(
            "the engine beam needs the package apache-beam; run: python -m pip install "
            "'jaxvideo[beam]'"
        ) from error

    def refuse(problem: str) -> NoReturn:
        raise UsageError(f"pipeline options of Beam: {problem}")

    parser = beam._BeamArgumentParser(allow_abbrev=False, add_help=False)
    parser.error = refuse  # the default prints two pages and ends the program
    for group in {str(group): group for group in beam.PipelineOptions.__subclasses__()}.values():
        group._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(list(options))
    if unknown and not (known.runner or "").startswith(_PORTABLE):
        names = [name for name in parser._option_string_actions if name.startswith("--")]
        near = did_you_mean(unknown[0].partition("=")[0], names)
        refuse(f"{unknown[0]} is unknown.{near} Beam's documentation lists those of each runner")
    quiet = [_QUIET] if known.default_sdk_harness_log_level is None else []
    with _silenced(logging.getLogger()):
        return beam.PipelineOptions([*options, *quiet])


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """Hides Beam's warnings, for example about packages of cloud services that it lacks."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
