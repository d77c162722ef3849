"""Orbax checkpoints. This is the only file that uses Orbax, because its v1 interface still changes.

A checkpoint is the training state, a tree of arrays, and a JSON description that makes it usable
without the run: model, classes, preprocessing, protocol, config, and the state of the data stream
(the index of the next batch). Reading a checkpoint executes no code from it. Orbax writes to a
temporary directory and renames it, so an incomplete checkpoint is never read. `weights.formats`
defines the format number and upgrades older descriptions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

import jaxvideo
from jaxvideo.types import CheckpointError
from jaxvideo.weights import formats, tree

FOLDER = "checkpoints"

# Fields of the state in checkpoints of every format.
_REQUIRED = ("step", "params", "batch_stats", "opt_state")


@contextlib.contextmanager
def open_checkpoints(workdir: Path, *, keep: int | None) -> Iterator[Any]:
    """Opens the checkpoints of a run.

    Args:
      workdir: the run directory.
      keep: None opens them for reading only. A number opens them for saving: the latest `keep`
        checkpoints and the one with the highest one-clip validation accuracy are kept. Opening
        for saving also deletes incomplete checkpoints; reading does not, because the run may
        still be writing them.

    Yields:
      An Orbax checkpointer for the other functions of this module.
    """
    # Any: Orbax's annotations do not admit its own classes here.
    policy: Any = None
    if keep is not None:
        kinds = ocp.training.preservation_policies
        best = kinds.BestN(
            get_metric_fn=lambda metrics: metrics["val_top1"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        policy = kinds.AnyPreservationPolicy([kinds.LatestN(keep), best])
    folder: Any = Path(workdir).absolute() / FOLDER
    with _as_checkpoint_error(f"{folder} cannot be read"):
        checkpointer = ocp.training.Checkpointer(
            folder, preservation_policy=policy, cleanup_tmp_directories=keep is not None
        )
    try:
        yield checkpointer
    except BaseException:
        with contextlib.suppress(Exception):  # close() raises the error of a failed save again
            checkpointer.close()
        raise
    checkpointer.close()


def latest_step(checkpointer) -> int | None:
    """Returns the step of the newest complete checkpoint; None if there is none."""
    return None if checkpointer.latest is None else int(checkpointer.latest.step)


def save(
    checkpointer,
    state: Any,
    step: int,
    description: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> None:
    """Writes a checkpoint and returns when it is complete. Collective: every process calls it.

    Args:
      state: a dataclass of arrays, `step.TrainState`.
      step: number of finished training steps.
      description: JSON values; the format number and library versions are added.
      metrics: results of a validation of this state, among them `val_top1`.

    Raises:
      CheckpointError: the directory does not exist or cannot be written, or the disk is full.
    """
    where = f"{checkpointer.directory}: the checkpoint of step {step} cannot be written"
    # Orbax would create it again, for instance under the mount point of a disk that was removed.
    if not Path(checkpointer.directory).is_dir():
        raise CheckpointError(f"{where}: the directory does not exist any more")
    stored = {**description, "format": formats.FORMAT, "versions": versions()}
    stored = json.loads(json.dumps(stored))
    with _as_checkpoint_error(where, "; earlier checkpoints are not affected"):
        checkpointer.save(step, _fields(state), custom_metadata=stored, metrics=metrics)


def restore(checkpointer, step: int, like: Any) -> Any:
    """Returns the state of a checkpoint, with the shapes, dtypes and shardings of `like`.

    Fields that were added to the state after the checkpoint was written are taken from `like`.

    Raises:
      CheckpointError: the state belongs to another model or optimizer (the message lists the
        differences), has a newer format, or is damaged.
    """
    found, description = _read(checkpointer, step)
    expected = {n: value for n, value in _fields(like).items() if n in found or n in _REQUIRED}
    where = f"{checkpointer.directory}/{step}{_written_with(description)}"
    tree.check_same(_leaves(expected), _leaves(found), where)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), expected
    )
    with _reading(checkpointer, step):
        return dataclasses.replace(like, **checkpointer.load(step, abstract))


def describe(checkpointer) -> dict[str, Any] | None:
    """Returns the description of the newest complete checkpoint; None if there is none."""
    step = latest_step(checkpointer)
    return None if step is None else _read(checkpointer, step)[1]


def load_variables(
    run: str | Path, step: int | str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads the variables and the description of a checkpoint, on the first device.

    If the run keeps a moving average of its weights, the average is loaded.

    Args:
      run: a run directory.
      step: step of the checkpoint. None (default): the newest. "best": the one with the highest
        one-clip validation accuracy.

    Returns:
      `{'params': ..., 'batch_stats': ...}` and the description that `save` was given.

    Raises:
      CheckpointError: `run` has no such checkpoint, or it is damaged or has a newer format.
    """
    folder = Path(run).absolute()
    if not (folder / FOLDER).is_dir():
        raise CheckpointError(
            f"{run} holds no checkpoints: a run directory, as train.py prints it, has a directory "
            f"{FOLDER!r} in it"
        )
    with open_checkpoints(folder, keep=None) as checkpointer:
        step = _choose(checkpointer, run, step)
        arrays, description = _read(checkpointer, step)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        averaged = bool(arrays.get("ema"))
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            {key: arrays[key] for key in (("ema",) if averaged else ("params", "batch_stats"))},
        )
        context = ocp.Context()
        context.pytree_options.loading.partial_load = True
        with _reading(checkpointer, step), context:
            found = checkpointer.load(step, wanted)
        return found["ema"] if averaged else found, description


def versions() -> dict[str, str]:
    """Returns the versions of jaxvideo and of the libraries that affect results."""
    names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")
    return {"jaxvideo": jaxvideo.__version__, **{n: metadata.version(n) for n in names}}


def _choose(checkpointer, run: str | Path, step: int | str | None) -> int:
    found = {int(one.step): one.metrics or {} for one in checkpointer.checkpoints}
    if not found:
        raise CheckpointError(f"{run}: the run has not completed a checkpoint yet")
    if step is None:
        return max(found)
    tested = {one: metrics["val_top1"] for one, metrics in found.items() if "val_top1" in metrics}
    if step == "best" and tested:
        return max(tested, key=tested.__getitem__)
    if step not in found:
        allowed = ", ".join(map(str, sorted(found))) + " or 'best'" * bool(tested)
        raise CheckpointError(f"{run} has no checkpoint step={step!r}: it has {allowed}")
    return int(step)


def _read(checkpointer, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the tree of array metadata of a checkpoint, and its description, upgraded."""
    with _reading(checkpointer, step):
        found = checkpointer.metadata(step)
        if not found.metadata or not found.custom_metadata:
            missing = "description" if found.metadata else "list of arrays"
            raise ValueError(f"its {missing} is missing")
    where = f"{checkpointer.directory}/{step}"
    return found.metadata, formats.upgrade(found.custom_metadata, where)


def _written_with(description: dict[str, Any]) -> str:
    """Lists libraries with another version than when the checkpoint was saved."""
    then, now = description.get("versions", {}), versions()
    changed = [f"{n} {then[n]}, here {now.get(n)}" for n in then if then[n] != now.get(n)]
    return f" (written with {'; '.join(changed)})" if changed else ""


@contextlib.contextmanager
def _reading(checkpointer, step: int) -> Iterator[None]:
    """Converts read errors to a CheckpointError that states where the run can resume."""
    earlier = [int(other.step) for other in checkpointer.checkpoints if other.step < step]
    then = f"resumes from step {max(earlier)}" if earlier else "starts from the beginning"
    with _as_checkpoint_error(
        f"{checkpointer.directory}/{step} cannot be read",
        f"; if it is corrupt, delete it: the run then {then}",
    ):
        yield


@contextlib.contextmanager
def _as_checkpoint_error(problem: str, remedy: str = "") -> Iterator[None]:
    """Orbax and its storage raise many types of errors; the cause is often several levels down."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        line = (str(cause).splitlines() or [type(cause).__name__])[0]
        line = line if len(line) <= 300 else f"{line[:300]} ..."
        raise CheckpointError(f"{problem} ({line}){remedy}") from error


def _leaves(state: Any) -> dict[str, Any]:
    """Returns `{name: leaf}` of a state, or of the metadata tree of one."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _fields(state: Any) -> dict[str, Any]:
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
