"""One run: from a config and a folder to a trained, evaluated network."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jaxvideo
from jaxvideo.data import motion
from jaxvideo.data.datasets import VideoDataset, read_annotations, read_classes
from jaxvideo.data.pipeline import Batch, error_text, train_batches
from jaxvideo.evaluation.protocol import Result, evaluate
from jaxvideo.models import create_model
from jaxvideo.pretrained import SOURCES
from jaxvideo.training import checkpoint
from jaxvideo.training.config import Data, Run, differences, identity, read_config
from jaxvideo.training.initial import initial_weights
from jaxvideo.training.log import duration, meter, metrics_log, say, warn
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.step import (
    TrainState,
    init_variables,
    make_predict_step,
    make_train_step,
)
from jaxvideo.types import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    Lowering,
    Protocol,
    TrainingError,
)

RESULT = "result.json"
RUN = "run.json"
SCORES = "scores.npz"

#: Validation during training; the number to publish comes from the config's protocol.
ONE_CLIP = Protocol(clips=1, crops=1)


def train(config: Mapping[str, Any], workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains, or continues to train, and tests. Returns what `result.json` holds.

    Args:
      config: nested dict, as `configs/` make it.
      workdir: the run's folder. An interrupted run continues from its newest checkpoint and
        ends with the same weights as one that was not interrupted.

    Raises:
      JaxvideoError: one message that says what is wrong and what is allowed.
    """
    values = json.loads(json.dumps(config))  # tuples to lists, and a copy nobody else changes
    run = read_config(values)
    create_model(**run.model)  # a wrong name is an error now, not after the data are made
    workdir = Path(workdir)
    missing = [p for p in run.init.paths if not Path(p).exists() and p not in SOURCES]
    if missing and not workdir.exists():
        raise ConfigError(f"config.init: {missing[0]!r} is no file, and no run's folder")
    finished = _claim(workdir, values)
    if finished is not None:
        say(f"{workdir}: finished before, video top-1 {100 * finished['top1']:.1f} %")
        say("  to train again, name another --workdir or remove this one")
        return finished
    say(f"run folder: {workdir}")
    _use_compilation_cache(run.compilation_cache)
    train_set, val_set = load_data(run.data)
    say(
        f"data: {len(train_set)} training and {len(val_set)} validation videos, "
        f"{len(train_set.classes)} classes"
    )
    return _train(run, values, workdir, train_set, val_set)


def _use_compilation_cache(folder: str) -> None:
    if not folder:
        return
    if folder == "default":
        cache = os.environ.get("JAXVIDEO_CACHE") or "~/.cache/jaxvideo"
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or f"{cache}/xla"
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"config.compilation_cache={folder!r} cannot be written: {error.strerror}; "
            "another folder, or '' for none"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    say(f"compiled programs are kept in {path}")


def load_data(data: Data) -> tuple[VideoDataset, VideoDataset]:
    """Training and validation set of a config's data section."""
    if data.source == "motion":
        root = motion.ensure_motion(data.root or None, train=data.train_videos, val=data.val_videos)
    else:
        root = Path(data.root)
    try:
        named = root / data.classes
        classes = read_classes(named) if named.is_file() else None
        train_set = read_annotations(data.train, root, classes)
        return train_set, read_annotations(data.val, root, train_set.classes)
    except DataError as error:
        hint = f". Another folder: --config.data.root=FOLDER. {data.hint}".rstrip()
        raise DataError(f"{error}{hint if data.source == 'csv' else ''}") from error


def _train(run: Run, config, workdir: Path, train_set, val_set) -> dict[str, Any]:
    started = time.perf_counter()
    whole, shards = _shardings(run)
    run, given = _given_weights(run, workdir, len(train_set.classes))
    model = create_model(**run.model, num_classes=len(train_set.classes))
    epoch_steps = run.epoch_steps or max(
        len(train_set) * run.augment.views_per_video // run.batch_size, 1
    )
    total = max(round(run.epochs * epoch_steps), 1 if run.epochs else 0)
    schedule = make_schedule(run.optim, steps_per_epoch=epoch_steps, epochs=run.epochs)
    plateau = make_plateau(run.optim)
    say(f"model: {run.model['name']}; compiling ...")
    optimizer, state = _initial_state(run, model, schedule, plateau, whole, given)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    say(f"  {parameters:,} parameters; {total} steps of {run.batch_size} clips on {_devices()}")
    train_step = jax.jit(
        make_train_step(
            model,
            optimizer,
            run.preprocessing,
            flip=run.augment.flip,
            label_smoothing=run.label_smoothing,
        ),
        donate_argnums=0,
        out_shardings=(whole, whole),
    )
    predict = _predictor(run, model, ONE_CLIP, shards)
    key = jax.random.key(run.seed)

    def put(batch: Batch) -> dict[str, jax.Array]:
        names = ("video", "label", "weight", "sample")
        return {n: jax.make_array_from_process_local_data(shards, batch[n]) for n in names}

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(workdir, keep=run.checkpoint.keep)
        )
        step = checkpoint.latest_step(checkpoints) or 0
        if step:
            state = checkpoint.restore(checkpoints, step, state)
            say(f"  continuing after step {step} of {total}")
        write = stack.enter_context(metrics_log(workdir, step))
        stop_requested = stack.enter_context(_stop_signals())
        broken = _broken_watch(train_set, run.data.max_broken)
        stream = train_batches(
            train_set,
            run.preprocessing,
            batch_size=run.batch_size,
            seed=run.seed,
            first_batch=step,
            last_batch=total,
            views_per_video=run.augment.views_per_video,
            crop=run.augment.crop,
            loading=run.loading,
        )
        batches = stack.enter_context(contextlib.closing(stream))
        tell = _progress(run, step, total)
        if not total:
            checkpoint.save(checkpoints, state, 0, _describe(run, config, train_set, 0))
        while step < total:
            last = _next_stop(step, epoch_steps, run.checkpoint.every_steps, total)
            state, step, means = _run_steps(
                train_step, state, batches, put, key, step, last, stop_requested, broken, tell
            )
            if step % epoch_steps == 0 or step == total:
                result = evaluate(
                    lambda video, state=state: predict(state, video),
                    val_set,
                    run.preprocessing,
                    ONE_CLIP,
                    batch_size=run.eval_batch_size,
                    loading=run.loading,
                )
                means["lr"] = float(np.asarray(schedule(step - 1)))
                if plateau is not None:
                    means["lr"] *= float(state.plateau.scale)
                    loss = jnp.asarray(result.loss, jnp.float32)
                    _, scaling = plateau.update(state.params, state.plateau, value=loss)
                    state = state.replace(plateau=jax.device_put(scaling, whole))
                write(step, {**means, "val_loss": result.loss, "val_top1": result.top1})
                say(
                    f"epoch {step / epoch_steps:g} of {run.epochs:g}: loss {means['loss']:.3f}, "
                    f"clip top-1 {100 * means['top1']:.1f} %; one-clip validation: "
                    f"loss {result.loss:.3f}, top-1 {100 * result.top1:.1f} %"
                )
            checkpoint.save(checkpoints, state, step, _describe(run, config, train_set, step))
            if stop_requested() and step < total:
                raise Interrupted(
                    f"stopped at step {step} of {total}, which is saved; "
                    "the same command continues the run"
                )

    result = _test(run, _predictor(run, model, run.protocol, shards), state, val_set)
    return _report(run, workdir, result, val_set.classes, time.perf_counter() - started)


def _run_steps(
    train_step: Callable[..., Any],
    state: TrainState,
    batches: Iterator[Batch],
    put: Callable[[Batch], dict[str, jax.Array]],
    key: jax.Array,
    first: int,
    last: int,
    stop_requested: Callable[[], bool],
    note_broken: Callable[[Batch], None],
    tell: Callable[[int, dict[str, float], float], None],
) -> tuple[TrainState, int, dict[str, float]]:
    """Steps `first + 1` to `last`, or to a request to stop; state, step and mean metrics."""
    sums: dict[str, float] = {}

    def read(step: int, metrics: dict[str, jax.Array], waited: float) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not np.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} at step {step}: stopped, earlier checkpoints are kept. "
                    "Try a lower config.optim.lr, a warm-up or config.optim.clip_norm"
                )
            sums[name] = sums.get(name, 0.0) + value
        tell(step, values, waited)

    pending, step = None, first
    for step in range(first + 1, last + 1):
        asked = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - asked
        note_broken(batch)
        state, metrics = train_step(state, put(batch), key)
        # Reading waits for the device, so step k is read when step k + 1 is on its way.
        if pending:
            read(*pending)
        pending = (step, metrics, waited)
        if stop_requested():
            break
    if pending:
        read(*pending)
    return state, step, {name: total / (step - first) for name, total in sums.items()}


def _next_stop(step: int, epoch_steps: int, every: int, total: int) -> int:
    """The next step after which something other than a step happens."""
    ends = [(step // epoch_steps + 1) * epoch_steps, total]
    return min([*ends, (step // every + 1) * every] if every else ends)


def _shardings(run: Run) -> tuple[NamedSharding, NamedSharding]:
    """Replicated, and split over the batch axis, on all devices."""
    count = jax.device_count()
    for name in ("batch_size", "eval_batch_size"):
        if getattr(run, name) % count:
            raise ConfigError(
                f"config.{name}={getattr(run, name)}: must be a multiple of the {count} devices"
            )
    # Auto axes: under the explicit ones, the default, dropout and reshapes raise.
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def _given_weights(run: Run, workdir: Path, num_classes: int) -> tuple[Run, dict[str, Any] | None]:
    """The run with what its first weights need of the model, and these; None for fresh ones, and
    for a run that continues, which does not need them again."""
    if not run.init.paths:
        return run, None
    with checkpoint.open_checkpoints(workdir, keep=None) as checkpoints:
        described = checkpoint.describe(checkpoints)
    if described:
        model = {key: value for key, value in described["model"].items() if key != "num_classes"}
        return dataclasses.replace(run, model=model), None
    variables, model, notes = initial_weights(
        run.init, run.model, num_classes, run.preprocessing, run.seed
    )
    say(f"first weights: {', '.join(run.init.paths)}")
    for note in notes:
        warn(note)
    model.pop("num_classes", None)
    return dataclasses.replace(run, model=model), variables


def _initial_state(run: Run, model, schedule, plateau, sharding, given):
    # A lowering only chooses how to compute, and fresh parameters need the simplest.
    simple = model.clone(lowering=Lowering.DIRECT)

    @jax.jit  # its trace is kept for the second use
    def variables():
        return init_variables(simple, run.preprocessing, run.seed)

    shapes = given or jax.eval_shape(variables)
    optimizer = make_optimizer(run.optim, schedule, shapes["params"])

    def init(given) -> TrainState:
        fresh = given or variables()
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=fresh["params"],
            batch_stats=fresh.get("batch_stats", {}),
            opt_state=optimizer.init(fresh["params"]),
            plateau=plateau.init(fresh["params"]) if plateau else None,
        )

    return optimizer, jax.jit(init, out_shardings=sharding)(given)


def _predictor(run: Run, model, protocol: Protocol, sharding: NamedSharding):
    """`(state, uint8 [N, T, H, W, C]) -> scores [N, classes]` in NumPy."""
    clip = protocol.apply(run.preprocessing)
    step = jax.jit(make_predict_step(model, clip, protocol.aggregation))

    def predict(state: TrainState, video: np.ndarray) -> np.ndarray:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return np.asarray(step(variables, jax.make_array_from_process_local_data(sharding, video)))

    return predict


def _progress(run: Run, first: int, total: int):
    """Gives `tell(step, values, waited)`, which prints a line every `log_seconds`."""
    rates, told, told_step, waiting = None, 0.0, first, 0.0

    def tell(step: int, values: dict[str, float], waited: float) -> None:
        nonlocal rates, told, told_step, waiting
        if rates is None:  # the first step is mostly compiling: there is no rate to tell yet
            say(f"  step {step}/{total}  loss {values['loss']:.3f}  compiled")
            rates, told, told_step = meter(total, step), time.perf_counter(), step
            return
        waiting += waited
        if time.perf_counter() - told < run.log_seconds:
            return
        say(
            f"  step {step}/{total}  loss {values['loss']:.3f}  "
            f"{rates(step, waiting, (step - told_step) * run.batch_size)}"
        )
        told, told_step, waiting = time.perf_counter(), step, 0.0

    return tell


def _broken_watch(dataset: VideoDataset, most: float) -> Callable[[Batch], None]:
    """Gives `note(batch)`, which names each video that could not be read once, and stops the
    run when they are more than the share `most` of the data set."""
    broken: dict[int, str] = {}

    def note(batch: Batch) -> None:
        for place in np.flatnonzero(batch["weight"] == 0):
            video = int(batch["sample"][place, 1])
            if video in broken:
                continue
            broken[video] = error_text(batch["error"][place])
            warn(f"skipped, {len(broken)} so far: {broken[video]}")
        if len(broken) > max(most * len(dataset), 1):
            lines = "\n".join(f"  {reason}" for reason in list(broken.values())[:20])
            raise DataError(
                f"{len(broken)} of {len(dataset)} videos cannot be read, more than the share "
                f"data.max_broken={most:g} allows:\n{lines}"
            )

    return note


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and the first Ctrl-C only ask to stop; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def handle(number, frame):
        del frame
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        say("  stopping after this step, saving ...")

    try:
        before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: its owner handles signals
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _claim(workdir: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Makes the run's folder ours, or returns the result of the finished run in it."""
    run_file = workdir / RUN
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if run_file.exists():
            lines = differences(identity(json.loads(run_file.read_text())), identity(config))
            # A run that failed before it saved anything does not keep its folder.
            if lines and any((workdir / checkpoint.FOLDER).glob("*")):
                raise CheckpointError(
                    f"{workdir} holds the run of another config; name another --workdir. "
                    "Its values and yours:\n  " + "\n  ".join(lines[:20])
                )
        elif any(workdir.iterdir()):
            raise CheckpointError(
                f"{workdir} is not empty and holds no run; name another --workdir"
            )
        if (workdir / RESULT).exists():
            return json.loads((workdir / RESULT).read_text())
        _write(run_file, config)
    except OSError as error:
        raise CheckpointError(
            f"the run folder {workdir} cannot be written ({error.strerror}); "
            "name another with --workdir"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{workdir}: a file of the run is damaged ({error})") from error
    return None


def _test(run: Run, predict, state: TrainState, val_set: VideoDataset) -> Result:
    say(f"testing: {run.protocol.describe(run.preprocessing)}")
    told, rates = time.perf_counter(), meter(len(val_set) * run.protocol.clips)
    before = (0, 0.0)

    def progress(done: int, total: int, waited: float) -> None:
        nonlocal told, before
        if time.perf_counter() - told >= run.log_seconds:
            say(f"  clip {done}/{total}  {rates(done, waited - before[1], done - before[0])}")
            told, before = time.perf_counter(), (done, waited)

    return evaluate(
        lambda video: predict(state, video),
        val_set,
        run.preprocessing,
        run.protocol,
        batch_size=run.eval_batch_size,
        loading=run.loading,
        progress=progress,
    )


def _report(
    run: Run, workdir: Path, result: Result, classes: tuple[str, ...], seconds: float
) -> dict[str, Any]:
    for reason in result.broken.values():
        warn(f"not counted: {reason}")
    report = {
        "top1": result.top1,
        "top5": result.top5,
        "protocol": run.protocol.describe(run.preprocessing),
        "model": run.model,
        "videos": len(result.labels),
        "unreadable_videos": len(result.broken),
        "seconds": round(seconds, 1),
        "seed": run.seed,
        "versions": _versions(),
    }
    np.savez(
        workdir / SCORES, scores=result.scores, labels=result.labels, classes=np.asarray(classes)
    )
    _write(workdir / RESULT, report)
    say(
        f"video top-1 {100 * result.top1:.1f} %, top-5 {100 * result.top5:.1f} % "
        f"of {len(result.labels)} videos in {duration(seconds)}; {report['protocol']}"
    )
    say(f"result: {workdir / RESULT}")
    return report


def _describe(run: Run, config, dataset: VideoDataset, step: int) -> dict[str, Any]:
    """What makes a checkpoint usable alone, as JSON; `data` is the state of the stream."""
    return {
        "model": {**run.model, "num_classes": len(dataset.classes)},
        "classes": list(dataset.classes),
        "preprocessing": dataclasses.asdict(run.preprocessing),
        "protocol": dataclasses.asdict(run.protocol),
        "config": config,
        "data": {"next_batch": step},
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")
    return {"jaxvideo": jaxvideo.__version__, **{n: metadata.version(n) for n in names}}


def _devices() -> str:
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}" if jax.device_count() > 1 else kind


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
