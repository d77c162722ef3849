"""Orbax checkpoints. Nothing else in the library knows Orbax, whose interface still moves.

A checkpoint is the training state as a tree of arrays, and a JSON description beside it that
is enough to use it alone: model, classes, preprocessing, config, and the state of the data
stream (the index of the next batch). Reading one executes nothing from it. Orbax writes into
a temporary folder and renames it, so a half-written checkpoint is never picked up; one that was
damaged later is refused, with what can be done about it.
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
from jaxvideo.weights import tree

FOLDER = "checkpoints"

#: Of the tree and its description. Whoever changes what they hold counts on.
FORMAT = 1


@contextlib.contextmanager
def open_checkpoints(workdir: Path, *, keep: int | None) -> Iterator[Any]:
    """The checkpoints of a run: for saving, then the latest `keep` are kept, and the one with the
    best one-clip validation; None only reads.

    Opening for saving also removes what a killed run left half-written; reading must not, for
    the run may be alive.
    """
    # Any: Orbax's own annotations do not admit its own classes here.
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
    with _explained(f"{folder} cannot be read"):
        checkpointer = ocp.training.Checkpointer(
            folder, preservation_policy=policy, cleanup_tmp_directories=keep is not None
        )
    try:
        yield checkpointer
    except BaseException:
        with contextlib.suppress(Exception):  # a save's error again
            checkpointer.close()
        raise
    checkpointer.close()


def latest_step(checkpointer) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return None if checkpointer.latest is None else int(checkpointer.latest.step)


def save(
    checkpointer,
    state: Any,
    step: int,
    description: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> None:
    """Writes a checkpoint, with the validation that was made at it, if one was; returns when it
    is complete. All processes of a run call it.

    Raises:
      CheckpointError: the folder is gone or cannot be written, or the disk is full.
    """
    where = f"{checkpointer.directory}: the checkpoint of step {step} cannot be written"
    # Orbax would make it anew: under a mount point, say, whose disk went away.
    if not Path(checkpointer.directory).is_dir():
        raise CheckpointError(f"{where}: the folder is gone")
    described = json.loads(json.dumps({**description, "format": FORMAT, "versions": versions()}))
    with _explained(where, "; earlier ones are untouched"):
        checkpointer.save(step, _as_dict(state), custom_metadata=described, metrics=metrics)


def restore(checkpointer, step: int, like: Any) -> Any:
    """The state of a checkpoint, with the shapes, types and shardings of `like`.

    Raises:
      CheckpointError: it holds another model's state (the difference is listed), is of another
        format, or is damaged.
    """
    expected = _as_dict(like)
    found, described = _read(checkpointer, step)
    where = f"{checkpointer.directory}/{step}{_written_with(described)}"
    tree.check_same(_names(expected), _names(found), where)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), expected
    )
    with _damage(checkpointer, step):
        return dataclasses.replace(like, **checkpointer.load(step, abstract))


def describe(checkpointer) -> dict[str, Any] | None:
    """The description of the newest complete checkpoint, or None."""
    step = latest_step(checkpointer)
    return None if step is None else _read(checkpointer, step)[1]


def load_variables(
    run: str | Path, step: int | str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and description of a run's checkpoint, on the first device.

    Args:
      run: a run's folder, as `train.py` prints it.
      step: of the checkpoint; None is the newest, "best" the one with the highest one-clip
        validation.

    Returns:
      `{'params', 'batch_stats'}` and the description given to `save`.
    """
    folder = Path(run).absolute()
    if not (folder / FOLDER).is_dir():
        raise CheckpointError(
            f"{run} holds no checkpoints (a run's folder, as train.py prints it, has a folder "
            f"{FOLDER!r} in it)"
        )
    with open_checkpoints(folder, keep=None) as checkpointer:
        step = _chosen(checkpointer, run, step)
        arrays, described = _read(checkpointer, step)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        # A run with an average of its weights is tested by that.
        averaged = bool(arrays.get("ema"))
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            {key: arrays[key] for key in (("ema",) if averaged else ("params", "batch_stats"))},
        )
        context = ocp.Context()
        context.pytree_options.loading.partial_load = True
        with _damage(checkpointer, step), context:
            found = checkpointer.load(step, wanted)
        return found["ema"] if averaged else found, described


def _chosen(checkpointer, run: str | Path, step: int | str | None) -> int:
    found = {int(one.step): one.metrics or {} for one in checkpointer.checkpoints}
    if not found:
        raise CheckpointError(f"{run}: no checkpoint has been completed in it yet")
    if step is None:
        return max(found)
    tested = {one: metrics["val_top1"] for one, metrics in found.items() if "val_top1" in metrics}
    if step == "best" and tested:
        return max(tested, key=tested.__getitem__)
    if step not in found:
        best = " or 'best'" if tested else ""
        steps = ", ".join(map(str, sorted(found)))
        raise CheckpointError(f"{run} has no checkpoint step={step!r}: it has {steps}{best}")
    return int(step)


def versions() -> dict[str, str]:
    """Of this library and of those that decide what a checkpoint or a result is."""
    names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")
    return {"jaxvideo": jaxvideo.__version__, **{n: metadata.version(n) for n in names}}


def _read(checkpointer, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What arrays a checkpoint has, as a tree, and its description."""
    with _damage(checkpointer, step):
        found = checkpointer.metadata(step)
        if not found.metadata or not found.custom_metadata:
            raise ValueError(f"its {'description' if found.metadata else 'list of arrays'} is lost")
    described = found.custom_metadata
    if described.get("format") != FORMAT:
        raise CheckpointError(
            f"{checkpointer.directory}/{step} is of format {described.get('format')}"
            f"{_written_with(described)}; this jaxvideo reads format {FORMAT}"
        )
    return found.metadata, described


def _written_with(described: dict[str, Any]) -> str:
    """The libraries that were others then, if any: what a difference may come from."""
    then, now = described.get("versions", {}), versions()
    others = [f"{n} {then[n]}, here {now.get(n)}" for n in then if then[n] != now.get(n)]
    return f" (written with {'; '.join(others)})" if others else ""


@contextlib.contextmanager
def _damage(checkpointer, step: int) -> Iterator[None]:
    """Tells of a checkpoint that cannot be read, and from where the run could go on."""
    earlier = [int(other.step) for other in checkpointer.checkpoints if other.step < step]
    then = f"goes on after step {max(earlier)}" if earlier else "begins anew"
    with _explained(
        f"{checkpointer.directory}/{step} cannot be read",
        f"; if it is damaged: without it, the run {then}",
    ):
        yield


@contextlib.contextmanager
def _explained(what: str, remedy: str = "") -> Iterator[None]:
    """Orbax and its storage raise errors of many types, the cause often below others."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        said = (str(cause).splitlines() or [type(cause).__name__])[0]
        said = said if len(said) <= 300 else f"{said[:300]} ..."
        raise CheckpointError(f"{what} ({said}){remedy}") from error


def _names(state: Any) -> dict[str, Any]:
    """`{name: leaf}` of a state, or of what Orbax says of one."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _as_dict(state: Any) -> dict[str, Any]:
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
