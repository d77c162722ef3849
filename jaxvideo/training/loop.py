"""The training loop: trains and tests one network, or resumes an interrupted run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo import startup
from jaxvideo.data.cache import cache_frames
from jaxvideo.data.pipeline import train_batches
from jaxvideo.progress import LOG
from jaxvideo.training import checkpoint, distributed, run_folder
from jaxvideo.training.data_checks import record_videos
from jaxvideo.training.inputs import load_data
from jaxvideo.training.log import metrics_log
from jaxvideo.training.loggers import Opening, check_loggers, log_steps, open_loggers
from jaxvideo.training.memory import shortage_explained
from jaxvideo.training.monitoring import monitor, profiler, stop_signals
from jaxvideo.training.preparation import prepare, read_run
from jaxvideo.training.validation import make_predictor, one_clip, test, validate
from jaxvideo.types import Interrupted

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
    workdir, started = Path(workdir), time.perf_counter()
    values, run = read_run(config, workdir)
    check_loggers(run.loggers, installed=True)
    result = run_folder.check(workdir, values) if distributed.writes() else None
    if (finished := distributed.broadcast(result)) is not None:
        LOG.info(f"{workdir}: already finished, video top-1 {100 * finished['top1']:.1f} %")
        LOG.info("  to train again, pass another --workdir or delete this one")
        return finished
    LOG.info(f"run directory: {workdir}")
    if run.note:
        LOG.info(run.note)
    with startup.abortable():  # nothing is written yet
        ready = prepare(run, values, workdir)
    state = ready.state
    run, layout, epoch_steps, total = ready.run, ready.layout, ready.epoch_steps, ready.total
    train_set, val_set = cache_frames(
        ready.data.sets or load_data(run.data), run.preprocessing, run.loading
    )
    protocol = one_clip(train_set)
    predict = make_predictor(run, ready.model, protocol)

    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder.claimed(workdir, values))
        if distributed.writes():
            record_videos(workdir, train_set)
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(workdir, keep=run.checkpoint.keep)
        )
        stack.enter_context(shortage_explained(run, "the training step"))
        first, described = checkpoint.latest_step(checkpoints) or 0, {}
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        LOG.info(
            f"  {parameters:,} parameters; {total} steps of {run.batch_size} clips on {_devices()}"
        )
        if first:
            state = checkpoint.restore(checkpoints, first, state)
            described = checkpoint.describe(checkpoints) or {}
            LOG.info(f"  resuming after step {first} of {total}")
        best = described.get("best")
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
        broken = run_folder.BrokenList(workdir, train_set)

        def rate(step: int) -> float:
            scale = 1.0 if ready.plateau is None else float(state.plateau.scale)
            return float(np.asarray(ready.schedule(step - 1))) * scale

        steps_log = log_steps(loggers, rate, run.log_steps, run.batch_size)
        epoch = described.get("epoch")
        watch = stack.enter_context(
            monitor(
                *(run, ready.model, train_set, first, total, epoch),
                on_broken=broken.add,
                log=steps_log,
            )
        )
        # `device_put` does not accept keys on the devices of several processes.
        make_key = jax.jit(jax.random.key, static_argnums=0, out_shardings=layout.whole)
        key = make_key(run.seed)

        def save(step: int, **metrics: Any) -> None:
            description = run_folder.describe(run, values, train_set, step)
            description |= {"best": best, "epoch": watch.sums()}
            checkpoint.save(checkpoints, state, step, description, **metrics)

        if not total:
            save(0)
        for step in range(first + 1, total + 1):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            trace(step)
            arrays = {name: layout.put(name, batch[name]) for name in BATCH}
            state, metrics = ready.step(state, arrays, key)
            watch.note(step, batch, metrics, waited)
            stopped = stop_requested(step)
            ends_epoch = step % epoch_steps == 0 or step == total
            every = run.checkpoint.every_steps
            if ends_epoch:
                means = watch.means()
                result = validate(run, predict, state, val_set, protocol)
                means["lr"] = float(np.asarray(ready.schedule(step - 1)))
                if ready.plateau is not None:
                    means["lr"] *= float(state.plateau.scale)
                    loss = jnp.asarray(result.loss, jnp.float32)
                    _, scaling = ready.plateau.update(state.params, state.plateau, value=loss)
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
        result = test(run, ready.model, state, val_set)
    seconds = time.perf_counter() - started
    report = run_folder.report(run, workdir, result, val_set, seconds, best, broken.names())
    return distributed.broadcast(report)


def _devices() -> str:
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}" if jax.device_count() > 1 else kind
