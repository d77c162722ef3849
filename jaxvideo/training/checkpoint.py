"""Orbax checkpoints. Nothing else in the library knows Orbax, whose interface still moves.

A checkpoint is the training state as a tree of arrays, and a JSON description beside it that
is enough to use it alone: model, classes, preprocessing, config, and the state of the data
stream (the index of the next batch). Reading one executes nothing from it. Orbax writes into
a temporary folder and renames it, so a half-written checkpoint is never picked up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxvideo.types import CheckpointError
from jaxvideo.weights import tree

FOLDER = "checkpoints"


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
    checkpointer = ocp.training.Checkpointer(
        folder, preservation_policy=policy, cleanup_tmp_directories=keep is not None
    )
    with contextlib.closing(checkpointer):
        yield checkpointer


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
      CheckpointError: the folder cannot be written, or the disk is full.
    """
    try:
        checkpointer.save(
            step, _as_dict(state), custom_metadata=_plain(description), metrics=metrics
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpointer.directory}: the checkpoint of step {step} cannot be written "
            f"({error}); earlier ones are untouched"
        ) from error


def restore(checkpointer, step: int, like: Any) -> Any:
    """The state of a checkpoint, with the shapes, types and shardings of `like`.

    Raises:
      CheckpointError: it holds another model's state (the difference is listed), or is damaged.
    """
    where = f"{checkpointer.directory}/{step}"
    expected = _as_dict(like)
    try:
        found = checkpointer.metadata(step).metadata
        check = {"params": expected["params"], "batch_stats": expected["batch_stats"]}
        tree.check_same(tree.flatten(check), tree.flatten({k: found[k] for k in check}), where)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), expected
        )
        return dataclasses.replace(like, **checkpointer.load(step, abstract))
    except CheckpointError:
        raise
    except Exception as error:  # Orbax raises its own and its storage's errors, of many types.
        raise CheckpointError(f"{where} cannot be restored ({_first_line(error)})") from error


def describe(checkpointer) -> dict[str, Any] | None:
    """The description of the newest complete checkpoint, or None."""
    step = latest_step(checkpointer)
    return None if step is None else checkpointer.metadata(step).custom_metadata


def load_variables(run: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and description of a run's newest checkpoint, on the first device.

    Args:
      run: a run's folder, as `train.py` prints it.

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
        step = latest_step(checkpointer)
        if step is None:
            raise CheckpointError(f"{run}: no checkpoint has been completed in it yet")
        try:
            metadata = checkpointer.metadata(step)
            device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            # A run with an average of its weights is tested by that.
            averaged = bool(metadata.metadata.get("ema"))
            keys = ("ema",) if averaged else ("params", "batch_stats")
            wanted = {
                key: jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
                    metadata.metadata[key],
                )
                for key in keys
            }
            context = ocp.Context()
            context.pytree_options.loading.partial_load = True
            with context:
                found = checkpointer.load(step, wanted)
            return found["ema"] if averaged else found, metadata.custom_metadata
        except Exception as error:
            raise CheckpointError(
                f"{run}: the checkpoint of step {step} cannot be read ({_first_line(error)})"
            ) from error


def _as_dict(state: Any) -> dict[str, Any]:
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def _plain(description: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(description))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
