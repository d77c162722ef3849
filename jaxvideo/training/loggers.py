"""Programs that show the metrics of a run: the table `LOGGERS`, and what is logged by step.

Only the first process logs. A logger is two functions, so that another one is a row here:

- `open`, a context manager: receives an `Opening` and yields a handle.
- `write(handle, step, values)`: logs numbers by name. Steps ascend, except that a resumed run
  repeats the steps after its checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jaxvideo.names import did_you_mean
from jaxvideo.progress import write_file
from jaxvideo.types import ConfigError, UsageError

#: `(step, values)`: logs numbers by name.
Write = Callable[[int, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Opening:
    """What a logger is opened with.

    Attributes:
      workdir: run directory; its name is the name of the run.
      config: the config as nested dicts.
      first_step: step of the checkpoint from which the run resumes; 0 for a new run.
    """

    workdir: Path
    config: Mapping[str, Any]
    first_step: int = 0


@dataclasses.dataclass(frozen=True)
class Logger:
    """A row of `LOGGERS`.

    Attributes:
      open: context manager, see the docstring of the module.
      write: `(handle, step, values)`.
      package: module that it imports.
      extra: extra of jaxvideo that installs the package; empty if jaxvideo requires it.
    """

    open: Callable[[Opening], AbstractContextManager[Any]]
    write: Callable[[Any, int, Mapping[str, float]], None]
    package: str
    extra: str = ""


@contextlib.contextmanager
def _tensorboard(opening: Opening) -> Iterator[Any]:
    import tensorboardX

    first = opening.first_step
    purged = first + 1 if first else None  # a resumed run writes these steps again
    folder = str(opening.workdir / "tensorboard")
    with contextlib.closing(tensorboardX.SummaryWriter(folder, purge_step=purged)) as board:
        yield board


def _write_tensorboard(board: Any, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        board.add_scalar(name, value, step)


@contextlib.contextmanager
def _wandb(opening: Opening) -> Iterator[Any]:
    import wandb

    known = _recalled(opening.workdir / "wandb.id")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "jaxvideo"),
        name=opening.workdir.name,
        dir=str(opening.workdir),
        config=dict(opening.config),
        id=known or None,
        resume="allow",
    )
    write_file(opening.workdir / "wandb.id", run.id)
    try:
        yield run
    finally:
        run.finish()


def _write_wandb(run: Any, step: int, values: Mapping[str, float]) -> None:
    run.log(dict(values), step=step)


@contextlib.contextmanager
def _mlflow(opening: Opening) -> Iterator[Any]:
    import mlflow

    known = _recalled(opening.workdir / "mlflow.id")
    with mlflow.start_run(run_id=known or None, run_name=opening.workdir.name) as run:
        if not known:
            write_file(opening.workdir / "mlflow.id", run.info.run_id)
            rows = [*_flat(opening.config).items()]
            for start in range(0, len(rows), 100):  # the most that a server accepts at once
                mlflow.log_params(dict(rows[start : start + 100]))
        yield mlflow


def _write_mlflow(mlflow: Any, step: int, values: Mapping[str, float]) -> None:
    mlflow.log_metrics(dict(values), step=step)


#: Loggers by name, for `config.loggers`.
LOGGERS = {
    "tensorboard": Logger(_tensorboard, _write_tensorboard, "tensorboardX"),
    "wandb": Logger(_wandb, _write_wandb, "wandb", "wandb"),
    "mlflow": Logger(_mlflow, _write_mlflow, "mlflow", "mlflow"),
}


def check_loggers(names: Sequence[str], *, installed: bool = False) -> None:
    """Checks the names of loggers.

    Args:
      names: keys of `LOGGERS`.
      installed: also check that their packages are installed.

    Raises:
      UsageError: a name is unknown.
      ConfigError: a package is not installed; the message names the extra.
    """
    for name in names:
        if name not in LOGGERS:
            raise UsageError(
                f"config.loggers: no logger {name!r}; allowed are {', '.join(LOGGERS)}."
                f"{did_you_mean(name, LOGGERS)}"
            )
        row = LOGGERS[name]
        if installed and importlib.util.find_spec(row.package) is None:
            raise ConfigError(
                f"config.loggers has {name!r}, but the package {row.package} is not installed. "
                f"Run: python -m pip install 'jaxvideo[{row.extra or name}]'"
            )


@contextlib.contextmanager
def open_loggers(names: Sequence[str], opening: Opening) -> Iterator[Write]:
    """Opens loggers; yields the function `(step, values)` that writes to all of them.

    In all processes but the first it opens nothing, and the function does nothing.
    """
    from jaxvideo.training import distributed

    if not distributed.writes():
        yield lambda step, values: None
        return
    check_loggers(names, installed=True)
    with contextlib.ExitStack() as stack:
        rows = [LOGGERS[name] for name in names]
        handles = [stack.enter_context(row.open(opening)) for row in rows]

        def write(step: int, values: Mapping[str, float]) -> None:
            for row, handle in zip(rows, handles, strict=True):
                row.write(handle, step, values)

        yield write


@dataclasses.dataclass(frozen=True)
class StepLog:
    """Logs means over several steps, as functions that `monitoring.monitor` calls.

    Attributes:
      note: `note(step, metrics, waited)` after each step; `waited` is the time in seconds that it
        waited for data.
      resume: called after a pause such as a validation, whose time does not count.
    """

    note: Callable[[int, Mapping[str, float], float], None]
    resume: Callable[[], None]


def log_steps(write: Write, rate: Callable[[int], float], every: int, clips: int) -> StepLog:
    """Returns the log of training steps.

    Every `every` steps it writes, with the prefix `step/`: the means of the metrics since the last
    time, `lr`, `clips_per_second`, and `data_wait`, the share of time spent waiting for data.

    Args:
      write: see `open_loggers`.
      rate: `rate(step)` is the learning rate of a step.
      every: steps between two records; 0 disables the log.
      clips: clips per step.

    Example:
      >>> write = lambda step, values: print(step, values["step/loss"], values["step/lr"])
      >>> log = log_steps(write, lambda step: 0.1, every=2, clips=8)
      >>> for step, loss in ((1, 4.0), (2, 2.0)):
      ...     log.note(step, {"loss": loss}, waited=0.0)
      2 3.0 0.1
    """
    sums: dict[str, float] = {}
    waiting, counted = 0.0, 0
    # Without the first step, which includes compilation, and without pauses.
    timed, seconds, latest = 0, 0.0, 0.0

    def note(step: int, metrics: Mapping[str, float], waited: float) -> None:
        nonlocal waiting, counted, timed, seconds, latest
        if not every:
            return
        now = time.perf_counter()
        if latest:
            seconds, timed, waiting = seconds + now - latest, timed + 1, waiting + waited
        latest = now
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
        counted += 1
        if step % every:
            return
        values = {f"step/{name}": value / counted for name, value in sums.items()}
        values["step/lr"] = rate(step)
        if seconds:
            values["step/clips_per_second"] = clips * timed / seconds
            values["step/data_wait"] = min(waiting / seconds, 1.0)
        write(step, values)
        sums.clear()
        waiting, counted, timed, seconds = 0.0, 0, 0, 0.0

    def resume() -> None:
        nonlocal latest
        latest = time.perf_counter()

    return StepLog(note, resume)


def _recalled(path: Path) -> str:
    """Returns the identifier that the run had before it was interrupted; "" for a new run."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
