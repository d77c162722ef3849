"""One run: from a config and a folder to a trained, evaluated network."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo import startup
from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.pipeline import Batch, Share, error_text, train_batches
from jaxvideo.evaluation.protocol import Result, evaluate, join
from jaxvideo.models import arguments_for, create_model
from jaxvideo.precision import resolve_dtype
from jaxvideo.pretrained import SOURCES
from jaxvideo.training import checkpoint, distributed, run_folder
from jaxvideo.training.chips import mfu
from jaxvideo.training.config import Run, read_config
from jaxvideo.training.initial import initial_weights
from jaxvideo.training.inputs import load_data
from jaxvideo.training.log import meter, metrics_log, say, warn
from jaxvideo.training.optim import make_optimizer, make_plateau, make_schedule
from jaxvideo.training.parallel import Layout, check_split, make_layout
from jaxvideo.training.program import jit_step, model_flops
from jaxvideo.training.step import (
    TrainState,
    first_state,
    init_variables,
    make_predict_step,
)
from jaxvideo.types import (
    ConfigError,
    DataError,
    Interrupted,
    Lowering,
    Protocol,
    TrainingError,
)

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
    workdir = Path(workdir)
    if run.model.get("dtype") == "auto":
        # A resumed run keeps its dtype on any machine.
        dtype = run_folder.recorded_dtype(workdir) or resolve_dtype("auto")
        values["model"]["dtype"] = distributed.broadcast(dtype)
        run = read_config(values)
    create_model(**run.model)  # a wrong name is an error now, not after the data are made
    missing = [p for p in run.init.paths if not Path(p).exists() and p not in SOURCES]
    if missing and not workdir.exists():
        raise ConfigError(
            f"config.init: {missing[0]!r} is no file, and no run's folder; weights that you have: "
            "--config.init.weights=FILE, none: --config.init.path="
        )
    finished = distributed.broadcast(
        run_folder.claim(workdir, values) if distributed.writes() else None
    )
    if finished is not None:
        say(f"{workdir}: finished before, video top-1 {100 * finished['top1']:.1f} %")
        say("  to train again, name another --workdir or remove this one")
        return finished
    say(f"run folder: {workdir}")
    if cache := startup.use_compilation_cache(run.compilation_cache, warn):
        say(f"compiled programs are kept in {cache}")
    train_set, val_set = load_data(run.data)
    say(
        f"data: {len(train_set)} training and {len(val_set)} validation videos, "
        f"{len(train_set.classes)} classes"
    )
    return _train(run, values, workdir, train_set, val_set)


def _train(run: Run, config, workdir: Path, train_set, val_set) -> dict[str, Any]:
    started = time.perf_counter()
    sizes = {"batch_size": run.batch_size, "eval_batch_size": run.eval_batch_size}
    layout = make_layout(run.parallel, sizes)
    run, given = _given_weights(run, workdir, len(train_set.classes))
    spec = dict(run.model)
    arguments = arguments_for(spec.pop("name"), spec, exclusive=not train_set.label_sets)
    run = dataclasses.replace(run, model={"name": run.model["name"], **arguments})
    model = create_model(**run.model, num_classes=len(train_set.classes))
    check_split(run.parallel, model, run.preprocessing.shape)
    epoch_steps = run.epoch_steps or max(
        len(train_set) * run.augment.views_per_video // run.batch_size, 1
    )
    total = max(round(run.epochs * epoch_steps), 1 if run.epochs else 0)
    schedule = make_schedule(run.optim, steps_per_epoch=epoch_steps, epochs=run.epochs)
    plateau = make_plateau(run.optim)
    dtype = run.model.get("dtype", "float32")
    say(f"model: {run.model['name']}{f', {dtype}' * (dtype != 'float32')}; compiling ...")
    with startup.abortable():
        optimizer, state, shardings = _initial_state(run, model, schedule, plateau, layout, given)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    say(f"  {parameters:,} parameters; {total} steps of {run.batch_size} clips on {_devices()}")
    train_step = jit_step(run, model, optimizer, layout, shardings)
    one_clip = ONE_CLIP
    if train_set.label_sets:
        one_clip = dataclasses.replace(ONE_CLIP, aggregation="sigmoid")
    predict = _predictor(run, model, one_clip)

    with contextlib.ExitStack() as stack:
        # Until the first step is compiled, Ctrl-C has nothing to save.
        starting = stack.enter_context(contextlib.ExitStack())
        starting.enter_context(startup.abortable())
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(workdir, keep=run.checkpoint.keep)
        )
        step, best = checkpoint.latest_step(checkpoints) or 0, None
        if step:
            state = checkpoint.restore(checkpoints, step, state)
            best = (checkpoint.describe(checkpoints) or {}).get("best")
            say(f"  continuing after step {step} of {total}")
        write = stack.enter_context(metrics_log(workdir, step))
        stream = train_batches(
            train_set,
            run.preprocessing,
            batch_size=run.batch_size,
            seed=run.seed,
            first_batch=step,
            last_batch=total,
            views_per_video=run.augment.views_per_video,
            repeated=run.augment.repeated,
            crop=run.augment.crop,
            loading=run.loading,
            share=layout.share,
        )
        steps = _Steps(
            train_step,
            stack.enter_context(contextlib.closing(stream)),
            layout,
            jax.random.key(run.seed),
            stack.enter_context(_stop_signals()),
            _broken_watch(train_set, run.data.max_broken),
            _progress(run, model, step, total),
            stack.enter_context(_profiler(workdir, run.profile)),
            starting.close,
        )

        def save(**more: Any) -> None:
            described = run_folder.describe(run, config, train_set, step)
            checkpoint.save(checkpoints, state, step, {**described, "best": best}, **more)

        if not total:
            starting.close()
            save()
        while step < total:
            last = _next_stop(step, epoch_steps, run.checkpoint.every_steps, total)
            state, step, means, stopped = steps.run(state, step, last)
            metrics = None
            if step % epoch_steps == 0 or step == total:
                result = _evaluate(run, predict, state, val_set, one_clip)
                means["lr"] = float(np.asarray(schedule(step - 1)))
                if plateau is not None:
                    means["lr"] *= float(state.plateau.scale)
                    loss = jnp.asarray(result.loss, jnp.float32)
                    _, scaling = plateau.update(state.params, state.plateau, value=loss)
                    state = state.replace(plateau=jax.device_put(scaling, layout.whole))
                metrics = {"val_loss": result.loss, "val_top1": result.top1}
                if best is None or result.top1 > best["val_top1"]:
                    best = {"step": step, **metrics}
                write(step, {**means, **metrics})
                say(
                    f"epoch {step / epoch_steps:g} of {run.epochs:g}: loss {means['loss']:.3f}, "
                    f"clip top-1 {100 * means['top1']:.1f} %; one-clip validation: "
                    f"loss {result.loss:.3f}, top-1 {100 * result.top1:.1f} %"
                )
            save(metrics=metrics)
            if stopped and step < total:
                raise Interrupted(
                    f"stopped at step {step} of {total}, which is saved; "
                    "the same command continues the run"
                )

    with startup.abortable():  # the state is saved
        result = _test(run, _predictor(run, model, run.protocol), state, val_set)
    seconds = time.perf_counter() - started
    report = run_folder.report(run, workdir, result, val_set, seconds, best)
    return distributed.broadcast(report)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """What a stretch of training steps needs."""

    train_step: Callable[..., Any]
    batches: Iterator[Batch]
    layout: Layout
    key: jax.Array
    stop_requested: Callable[[int], bool]
    note_broken: Callable[[np.ndarray, dict[int, str]], None]
    tell: Callable[[int, dict[str, float], float], None]
    profile: Callable[[int], None]
    started: Callable[[], None]

    def run(self, state: TrainState, first: int, last: int):
        """Steps `first + 1` to `last`, or to a request to stop: state, step, mean metrics, and
        whether that was asked for."""
        sums: dict[str, float] = {}

        def read(step: int, metrics: dict[str, jax.Array], waited: float, errors) -> None:
            self.note_broken(np.asarray(metrics.pop("broken")), errors)
            values = {name: float(value) for name, value in metrics.items()}
            for name, value in values.items():
                if not np.isfinite(value):
                    raise TrainingError(
                        f"{name} is {value} at step {step}: stopped, earlier checkpoints are kept. "
                        "Try a lower config.optim.lr, a warm-up or config.optim.clip_norm"
                    )
                sums[name] = sums.get(name, 0.0) + value
            self.tell(step, values, waited)

        pending, step, stopped = None, first, False
        for step in range(first + 1, last + 1):
            asked = time.perf_counter()
            batch = next(self.batches)
            waited = time.perf_counter() - asked
            errors = {
                int(batch["sample"][place, 1]): error_text(batch["error"][place])
                for place in np.flatnonzero(batch["weight"] == 0)
            }
            self.profile(step)
            names = ("video", "label", "weight", "sample")
            given = {name: self.layout.put(name, batch[name]) for name in names}
            state, metrics = self.train_step(state, given, self.key)
            self.started()
            # Reading waits for the device, so step k is read when step k + 1 is on its way.
            if pending:
                read(*pending)
            pending = (step, metrics, waited, errors)
            stopped = self.stop_requested(step)
            if stopped:
                break
        if pending:
            read(*pending)
        means = {name: total / (step - first) for name, total in sums.items()}
        return state, step, means, stopped


def _next_stop(step: int, epoch_steps: int, every: int, total: int) -> int:
    """The next step after which something other than a step happens."""
    ends = [(step // epoch_steps + 1) * epoch_steps, total]
    return min([*ends, (step // every + 1) * every] if every else ends)


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


def _initial_state(run: Run, model, schedule, plateau, layout: Layout, given):
    """The optimizer, the state, and its shardings."""
    # A lowering only chooses how to compute, and fresh parameters need the simplest.
    simple = model.clone(lowering=Lowering.DIRECT)

    @jax.jit  # its trace is kept for the second use
    def variables():
        return init_variables(simple, run.preprocessing, run.seed)

    shapes = given or jax.eval_shape(variables)
    optimizer = make_optimizer(run.optim, schedule, shapes["params"])

    def init(given) -> TrainState:
        return first_state(given or variables(), optimizer, plateau, ema=bool(run.ema))

    shardings = layout.state(jax.eval_shape(init, given), run.parallel.fsdp)
    return optimizer, jax.jit(init, out_shardings=shardings)(given), shardings


def _predictor(run: Run, model, protocol: Protocol):
    """`(state, uint8 [N, T, H, W, C]) -> scores [N, classes]` in NumPy, N clips of this process
    on its own devices: each process tests videos of its own, at its own pace."""
    clip = protocol.apply(run.preprocessing)
    step = jax.jit(make_predict_step(model, clip, protocol.aggregation))
    own = make_layout(run.parallel, {}, jax.local_devices())
    held: list[Any] = [None, None]

    def predict(state: TrainState, video: np.ndarray) -> np.ndarray:
        if held[0] is not state:  # one state at a time, brought here once
            tested = state.ema or {"params": state.params, "batch_stats": state.batch_stats}
            held[:] = state, _brought_here(tested, own)
        return np.asarray(step(held[1], own.put("video", video)))

    return predict


def _brought_here(variables: Any, own: Layout) -> Any:
    """Variables of all processes, whole on each device of this one."""
    if jax.process_count() == 1:
        return jax.device_put(variables, own.whole)
    mesh = jax.tree.leaves(variables)[0].sharding.mesh
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    gathered = jax.jit(lambda tree: tree, out_shardings=everywhere)(variables)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_single_device_arrays(
            leaf.shape, own.whole, [shard.data for shard in leaf.addressable_shards]
        ),
        gathered,
    )


def _evaluate(run: Run, predict, state: TrainState, dataset, protocol: Protocol, **more) -> Result:
    """Every video once, by whichever process, and on all of them the same result."""
    share = Share(jax.process_index(), jax.process_count())
    result = evaluate(
        lambda video: predict(state, video),
        dataset,
        run.preprocessing,
        protocol,
        batch_size=run.eval_batch_size // share.count,
        loading=run.loading,
        share=share,
        **more,
    )
    if share.count == 1:
        return result
    return join([_unpacked(part) for part in distributed.gather(_packed(result))])


def _packed(result: Result) -> bytes:
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in values.items() if name not in arrays}
    file = io.BytesIO()
    arrays["others"] = np.frombuffer(json.dumps(others).encode(), np.uint8)
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _unpacked(data: bytes) -> Result:
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    return Result(**json.loads(bytes(arrays.pop("others"))), **arrays)


def _progress(run: Run, model, first: int, total: int):
    """Gives `tell(step, values, waited)`, which prints a line every `log_seconds`."""
    rates, told, told_step, waiting, flops = None, 0.0, first, 0.0, 0.0

    def tell(step: int, values: dict[str, float], waited: float) -> None:
        nonlocal rates, told, told_step, waiting, flops
        if rates is None:  # the first step is mostly compiling: there is no rate to tell yet
            say(f"  step {step}/{total}  loss {values['loss']:.3f}  compiled")
            rates, told, told_step = meter(total, step), time.perf_counter(), step
            return
        waiting += waited
        seconds, count = time.perf_counter() - told, step - told_step
        if seconds < run.log_seconds:
            return
        devices, kind = jax.device_count(), jax.devices()[0].device_kind
        share = None
        if mfu(1.0, 1.0, kind, devices) is not None:  # its peak is known
            flops = flops or model_flops(model, run)
            share = mfu(flops, seconds / count, kind, devices)
        line = rates(step, waiting, count * run.batch_size)
        used = "" if share is None else f"  MFU {100 * share:.0f} %"
        say(f"  step {step}/{total}  loss {values['loss']:.3f}  {line}{used}")
        told, told_step, waiting = time.perf_counter(), step, 0.0

    return tell


def _broken_watch(dataset: VideoDataset, most: float):
    """Gives `note(videos, errors)`, which names each video that could not be read once, and stops
    the run when they are more than the share `most` of the data set.

    `videos` are those of the global batch, the same on all processes, and -1 in between;
    `errors` are the reasons that this process knows.
    """
    broken: dict[int, str] = {}

    def note(videos: np.ndarray, errors: dict[int, str]) -> None:
        for video in videos[videos >= 0].tolist():
            if video not in broken:
                broken[video] = errors.get(video, f"{dataset.paths[video]}: another process's")
                warn(f"skipped, {len(broken)} so far: {broken[video]}")
        if len(broken) > max(most * len(dataset), 1):
            lines = "\n".join(f"  {reason}" for reason in list(broken.values())[:20])
            raise DataError(
                f"{len(broken)} of {len(dataset)} videos cannot be read, more than the share "
                f"data.max_broken={most:g} allows:\n{lines}"
            )

    return note


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[int], bool]]:
    """Gives `asked(step)`. SIGTERM and the first Ctrl-C only ask to stop; a second Ctrl-C
    interrupts at once. Of several processes, JAX's runtime hears SIGTERM and agrees on the step."""
    if jax.process_count() > 1:
        yield distributed.stop_agreed
        return
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
        yield lambda step: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _profiler(workdir: Path, steps: tuple[int, ...]) -> Iterator[Callable[[int], None]]:
    """Gives `before(step)`, which traces the steps from the first to before the second of `steps`
    into the run's folder `profile`."""
    tracing = False

    def before(step: int) -> None:
        nonlocal tracing
        if steps and not tracing and steps[0] <= step < steps[1]:
            jax.profiler.start_trace(str(workdir / "profile"))
            tracing = True
        elif tracing and step >= steps[1]:
            jax.profiler.stop_trace()
            tracing = False
            say(f"  steps {steps[0]} to {steps[1] - 1} traced: {workdir / 'profile'}")

    try:
        yield before
    finally:
        if tracing:
            jax.profiler.stop_trace()


def _test(run: Run, predict, state: TrainState, val_set: VideoDataset) -> Result:
    say(f"testing: {run.protocol.describe(run.preprocessing)}")
    told, rates = time.perf_counter(), meter(len(val_set) * max(run.protocol.clips, 1))
    before = (0, 0.0)

    def progress(done: int, total: int, waited: float) -> None:
        nonlocal told, before
        if time.perf_counter() - told >= run.log_seconds:
            say(f"  clip {done}/{total}  {rates(done, waited - before[1], done - before[0])}")
            told, before = time.perf_counter(), (done, waited)

    return _evaluate(run, predict, state, val_set, run.protocol, progress=progress)


def _devices() -> str:
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}" if jax.device_count() > 1 else kind
