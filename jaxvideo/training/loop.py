"""The training loop: trains and tests one network, or resumes an interrupted run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo import startup
from jaxvideo.data.pipeline import train_batches
from jaxvideo.models import arguments_for, create_model
from jaxvideo.precision import resolve_dtype
from jaxvideo.progress import LOG
from jaxvideo.training import checkpoint, distributed, run_folder
from jaxvideo.training.config import read_config
from jaxvideo.training.initial import check_paths, first_weights
from jaxvideo.training.inputs import load_data
from jaxvideo.training.log import metrics_log
from jaxvideo.training.loggers import Opening, check_loggers, log_steps, open_loggers
from jaxvideo.training.monitoring import monitor, profiler, stop_signals
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.parallel import Layout, check_split, make_layout
from jaxvideo.training.program import jit_step
from jaxvideo.training.schema import Run
from jaxvideo.training.step import TrainState, first_state, init_variables
from jaxvideo.training.validation import make_predictor, one_clip, test, validate
from jaxvideo.types import Interrupted, Lowering

#: Keys of a batch that the training step receives.
BATCH = ("video", "label", "weight", "sample")


def train(config: Mapping[str, Any], workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains a network by a config, or resumes its training, then tests it.

    Args:
      config: nested dicts, such as `load_config` returns.
      workdir: run directory. An interrupted run resumes from its newest checkpoint. Its final
        weights equal those of an uninterrupted run.

    Returns:
      The contents of `result.json`.

    Raises:
      JaxvideoError: the config, the data or the run directory is invalid, or training failed.
    """
    values, run = _read(config, Path(workdir))
    check_loggers(run.loggers, installed=True)
    workdir = Path(workdir)
    result = run_folder.claim(workdir, values) if distributed.writes() else None
    if (finished := distributed.broadcast(result)) is not None:
        LOG.info(f"{workdir}: already finished, video top-1 {100 * finished['top1']:.1f} %")
        LOG.info("  to train again, pass another --workdir or delete this one")
        return finished
    LOG.info(f"run directory: {workdir}")
    if cache := startup.use_compilation_cache(run.compilation_cache):
        LOG.info(f"compilation cache: {cache}")
    train_set, val_set = load_data(run.data)
    LOG.info(
        f"data: {len(train_set)} training and {len(val_set)} validation videos, "
        f"{len(train_set.classes)} classes"
    )

    started = time.perf_counter()
    sizes = {"batch_size": run.batch_size, "eval_batch_size": run.eval_batch_size}
    layout = make_layout(run.parallel, sizes)
    run, given = first_weights(run, values["preprocessing"], workdir, len(train_set.classes))
    run = _with_labels(run, multi_label=bool(train_set.label_sets))
    model = create_model(**run.model, num_classes=len(train_set.classes))
    check_split(run.parallel, model, run.preprocessing.shape)
    epoch_steps, total = _lengths(run, len(train_set))
    schedule = make_schedule(run.optim, steps_per_epoch=epoch_steps, epochs=run.epochs)
    plateau = make_plateau(run.optim)
    dtype = run.model.get("dtype", "float32")
    LOG.info(f"model: {run.model['name']}{f', {dtype}' * (dtype != 'float32')}; compiling ...")
    with startup.abortable():
        optimizer, state, shardings = _initial_state(run, model, schedule, plateau, layout, given)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    LOG.info(
        f"  {parameters:,} parameters; {total} steps of {run.batch_size} clips on {_devices()}"
    )
    train_step = jit_step(run, model, optimizer, layout, shardings)
    protocol = one_clip(train_set)
    predict = make_predictor(run, model, protocol)

    with contextlib.ExitStack() as stack:
        # Until the first step is compiled, Ctrl-C has nothing to save.
        starting = stack.enter_context(contextlib.ExitStack())
        starting.enter_context(startup.abortable())
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(workdir, keep=run.checkpoint.keep)
        )
        first, best = checkpoint.latest_step(checkpoints) or 0, None
        if first:
            state = checkpoint.restore(checkpoints, first, state)
            best = (checkpoint.describe(checkpoints) or {}).get("best")
            LOG.info(f"  resuming after step {first} of {total}")
        opening = Opening(workdir, values, first)
        loggers = stack.enter_context(open_loggers(run.loggers, opening))
        log_metrics = stack.enter_context(metrics_log(workdir, first, loggers))
        batches = train_batches(
            train_set,
            run.preprocessing,
            batch_size=run.batch_size,
            seed=run.seed,
            first_batch=first,
            last_batch=total,
            views_per_video=run.augment.views_per_video,
            repeated=run.augment.repeated,
            crop=run.augment,
            sampler=run.augment.sampler,
            loading=run.loading,
            share=layout.share,
        )
        stack.enter_context(contextlib.closing(batches))
        stop_requested = stack.enter_context(stop_signals())
        trace = stack.enter_context(profiler(workdir, run.profile))

        def rate(step: int) -> float:
            scale = 1.0 if plateau is None else float(state.plateau.scale)
            return float(np.asarray(schedule(step - 1))) * scale

        steps_log = log_steps(loggers, rate, run.log_steps, run.batch_size)
        watch = stack.enter_context(monitor(run, model, train_set, first, total, log=steps_log))
        key = jax.random.key(run.seed)

        def save(step: int, **metrics: Any) -> None:
            described = run_folder.describe(run, values, train_set, step)
            checkpoint.save(checkpoints, state, step, {**described, "best": best}, **metrics)

        if not total:
            starting.close()
            save(0)
        for step in range(first + 1, total + 1):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            trace(step)
            arrays = {name: layout.put(name, batch[name]) for name in BATCH}
            state, metrics = train_step(state, arrays, key)
            starting.close()
            watch.note(step, batch, metrics, waited)
            stopped = stop_requested(step)
            ends_epoch = step % epoch_steps == 0 or step == total
            every = run.checkpoint.every_steps
            if ends_epoch:
                means = watch.means()
                result = validate(run, predict, state, val_set, protocol)
                means["lr"] = float(np.asarray(schedule(step - 1)))
                if plateau is not None:
                    means["lr"] *= float(state.plateau.scale)
                    loss = jnp.asarray(result.loss, jnp.float32)
                    _, scaling = plateau.update(state.params, state.plateau, value=loss)
                    state = state.replace(plateau=jax.device_put(scaling, layout.whole))
                validated = {"val_loss": result.loss, "val_top1": result.top1}
                if best is None or result.top1 > best["val_top1"]:
                    best = {"step": step, **validated}
                log_metrics(step, {**means, **validated})
                LOG.info(
                    f"epoch {step / epoch_steps:g} of {run.epochs:g}: loss {means['loss']:.3f}, "
                    f"clip top-1 {100 * means['top1']:.1f} %; one-clip validation: "
                    f"loss {result.loss:.3f}, top-1 {100 * result.top1:.1f} %"
                )
                save(step, metrics=validated)
                watch.resume()
            elif stopped or (every and step % every == 0):
                watch.read()
                save(step)
                watch.resume()
            if stopped and step < total:
                raise Interrupted(
                    f"stopped after step {step} of {total}; the state is saved. "
                    "Repeat the command to resume"
                )

    with startup.abortable():  # the final state is already saved
        result = test(run, model, state, val_set)
    seconds = time.perf_counter() - started
    report = run_folder.report(run, workdir, result, val_set, seconds, best)
    return distributed.broadcast(report)


def _read(config: Mapping[str, Any], workdir: Path) -> tuple[dict[str, Any], Run]:
    """Returns a copy of the config with "auto" dtype resolved, and the validated `Run`."""
    values = json.loads(json.dumps(config))
    run = read_config(values)
    if run.model.get("dtype") == "auto":
        # A resumed run keeps its dtype, even on another machine.
        dtype = run_folder.recorded_dtype(workdir) or resolve_dtype("auto")
        values["model"]["dtype"] = distributed.broadcast(dtype)
        run = read_config(values)
    create_model(**run.model)  # report a wrong name before the data are loaded
    if not workdir.exists():
        check_paths(run.init)
    values.setdefault("preprocessing", {})
    return values, run


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


def _initial_state(run: Run, model, schedule, plateau, layout: Layout, given):
    """Returns the optimizer, the initial state and its shardings."""
    # Initial parameters do not depend on the lowering; DIRECT compiles fastest.
    simple = model.clone(lowering=Lowering.DIRECT)

    @jax.jit  # traced once, used twice
    def variables():
        return init_variables(simple, run.preprocessing, run.seed)

    shapes = given or jax.eval_shape(variables)
    optimizer = make_optimizer(run.optim, schedule, shapes["params"])

    def init(given) -> TrainState:
        return first_state(given or variables(), optimizer, plateau, ema=bool(run.ema))

    shardings = layout.state(jax.eval_shape(init, given), run.parallel.fsdp)
    return optimizer, jax.jit(init, out_shardings=shardings)(given), shardings


def _devices() -> str:
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}" if jax.device_count() > 1 else kind
