"""Prepares a run: everything that can be refused is refused here, before a file is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxvideo import startup
from jaxvideo.models import arguments_for, create_model
from jaxvideo.models.folding import options_of_one_call
from jaxvideo.precision import resolve_dtype
from jaxvideo.progress import LOG
from jaxvideo.training import distributed, run_folder
from jaxvideo.training.config import expected_clips, read_config
from jaxvideo.training.data_checks import check_inputs
from jaxvideo.training.initial import check_paths, first_weights
from jaxvideo.training.inputs import Survey, survey
from jaxvideo.training.memory import check_memory, memory_of, shortage_explained
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.parallel import Layout, check_split, make_layout
from jaxvideo.training.program import batch_shapes, jit_step
from jaxvideo.training.schema import Run
from jaxvideo.training.step import TrainState, first_state, init_variables
from jaxvideo.types import CheckpointError, Lowering, Preprocessing


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Attributes:
      run: the config, with the model arguments and the preprocessing of its weights.
      data: the data set.
      layout: devices.
      model: the network.
      schedule: learning rate by step.
      plateau: see `optim.make_plateau`.
      epoch_steps, total: number of steps per epoch and of the run.
      state: the initial state. The first step donates it.
      step: the compiled training step; None if the run has no steps.
    """

    run: Run
    data: Survey
    layout: Layout
    model: Any
    schedule: optax.Schedule
    plateau: Any
    epoch_steps: int
    total: int
    state: TrainState
    step: Any


def read_run(config: Mapping[str, Any], workdir: Path) -> tuple[dict[str, Any], Run]:
    """Returns a copy of the config with "auto" dtype resolved, and the validated `Run`.

    Raises:
      ConfigError: a key, a value or the network does not exist.
    """
    values = json.loads(json.dumps(config))
    run = read_config(values)
    if run.model.get("dtype") == "auto":
        # A resumed run keeps its dtype, even on another machine.
        dtype = run_folder.recorded_dtype(workdir) or resolve_dtype("auto")
        values["model"]["dtype"] = distributed.broadcast(dtype)
        run = read_config(values)
    create_model(**run.model)  # raises if the name or an argument is unknown
    run.protocol.apply(run.preprocessing)  # raises if they do not fit
    values.setdefault("preprocessing", {})
    return values, run


def prepare(run: Run, values: Mapping[str, Any], workdir: Path) -> Prepared:
    """Checks a run against its data, weights and devices, and compiles its training step.

    No file is written, except in the cache of compiled programs, and no video is rendered.

    Args:
      run: the run.
      values: its config.
      workdir: its run directory, which may not exist.

    Raises:
      JaxvideoError: the run cannot start; the message states why.
    """
    sizes = {"batch_size": run.batch_size, "eval_batch_size": run.eval_batch_size}
    layout = make_layout(run.parallel, sizes)
    recorded = run_folder.recorded_checkpoint(workdir)
    if recorded is None:
        check_paths(run.init)
    data = survey(run.data)
    LOG.info(
        f"data: {data.videos} training and {data.val_videos} validation videos, "
        f"{len(data.classes)} classes"
    )
    if recorded is not None:
        _check_classes(workdir, recorded["classes"], data.classes)
        # Keys that the config leaves open stay as they were; the network's may have changed since.
        clips = Preprocessing(**recorded["preprocessing"])
        clips = expected_clips(clips, values["preprocessing"])
        run = dataclasses.replace(run, preprocessing=clips)
    if cache := startup.use_compilation_cache(run.compilation_cache):
        LOG.info(f"compilation cache: {cache}")
    run, given = first_weights(run, values["preprocessing"], recorded, data.classes)
    if data.sets:
        check_inputs(run.preprocessing, *data.sets)
    run = _with_labels(run, multi_label=data.several)
    model = create_model(**run.model, num_classes=len(data.classes))
    check_split(run.parallel, model, run.preprocessing.shape)
    epoch_steps, total = _lengths(run, data.videos)
    schedule = make_schedule(run.optim, steps_per_epoch=epoch_steps, epochs=run.epochs)
    plateau = make_plateau(run.optim)
    # Initial parameters do not depend on the lowering; DIRECT compiles fastest.
    simple = model.clone(lowering=Lowering.DIRECT)
    _check_test_clip(run, simple)

    @jax.jit  # traced once, used twice
    def variables():
        return init_variables(simple, run.preprocessing, run.seed)

    optimizer = make_optimizer(run.optim, schedule, (given or jax.eval_shape(variables))["params"])

    def init(given) -> TrainState:
        return first_state(given or variables(), optimizer, plateau, ema=bool(run.ema))

    shapes = jax.eval_shape(init, given)
    shardings = layout.state(shapes, run.parallel.fsdp)
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    dtype = run.model.get("dtype", "float32")
    LOG.info(f"model: {run.model['name']}{f', {dtype}' * (dtype != 'float32')}; compiling ...")
    step = None
    if total:
        several = len(data.classes) if data.several else 0
        batch = batch_shapes(run, layout, several)
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=layout.whole)
        jitted = jit_step(run, model, optimizer, layout, shardings)
        with shortage_explained(run, "the training step"):
            step = jitted.lower(shapes, batch, key).compile()
        check_memory(run, memory_of(step), shapes, layout)
    return Prepared(
        run=run,
        data=data,
        layout=layout,
        model=model,
        schedule=schedule,
        plateau=plateau,
        epoch_steps=epoch_steps,
        total=total,
        state=jax.jit(init, out_shardings=shardings, compiler_options=options_of_one_call())(given),
        step=step,
    )


def _check_classes(workdir: Path, before: list[str], now: tuple[str, ...]) -> None:
    """Checks that the classes of a data set are those that a run was trained on."""
    if list(before) == list(now):
        return
    moved = [
        f"{index}: {one!r} in the run, {other!r} in the data"
        for index, (one, other) in enumerate(zip(before, now, strict=False))
        if one != other
    ]
    counts = f"{len(before)} and {len(now)} classes" if len(before) != len(now) else "other places"
    shown = "; ".join(moved[:5]) + "; ..." * (len(moved) > 5)
    raise CheckpointError(
        f"{workdir}: the run and the data have {counts} ({shown or 'the first ones agree'}). "
        "Restore the classes of the data, or start a new run, whose classifier is aligned by "
        f"class names: another --workdir and config.init.weights={workdir}"
    )


def _with_labels(run: Run, *, multi_label: bool) -> Run:
    """Returns the run with the model arguments for its labels, see `models.arguments_for`."""
    arguments = dict(run.model)
    name = arguments.pop("name")
    arguments = arguments_for(name, arguments, exclusive=not multi_label)
    return dataclasses.replace(run, model={"name": name, **arguments})


def _lengths(run: Run, videos: int) -> tuple[int, int]:
    """Returns the number of steps per epoch and of the whole run."""
    clips = videos * run.augment.views_per_video
    epoch_steps = run.epoch_steps or max(clips // run.batch_size, 1)
    return epoch_steps, max(round(run.epochs * epoch_steps), 1 if run.epochs else 0)


def _check_test_clip(run: Run, model: Any) -> None:
    """Raises if the network does not accept the clips of the test protocol."""
    shape = run.protocol.apply(run.preprocessing).shape
    if shape == run.preprocessing.shape:
        return
    variables = jax.eval_shape(lambda: init_variables(model, run.preprocessing, run.seed))
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, clip)
