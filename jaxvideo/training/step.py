"""The whole algorithm: one pure function `(state, batch, key) -> (state, metrics)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxvideo.training.augment import change_colors, erase, mix, partner
from jaxvideo.training.preprocess import prepare, random_flip, sample_keys
from jaxvideo.training.remat import stages_again
from jaxvideo.training.schema import StepAugment
from jaxvideo.types import ConfigError, Preprocessing

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes; a checkpoint holds exactly this. `ema` are averages of
    `params` and `batch_stats` under these names, or nothing."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    plateau: Any
    ema: Any = flax.struct.field(default_factory=dict)


def init_variables(model, preprocessing: Preprocessing, seed: int) -> dict[str, Any]:
    """Fresh `{'params': ..., 'batch_stats': ...}`. Call it under `jit`: XLA then drops the
    forward pass that `init` traces, and only the random numbers are computed."""
    clip = jnp.zeros((1, *preprocessing.shape), jnp.float32)
    return model.init(jax.random.key(seed), clip, train=False)


def first_state(
    variables: Mapping[str, Any], optimizer, plateau=None, *, ema: bool = False
) -> TrainState:
    """Returns the state before the first step; `ema`, with an average of the weights."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        plateau=plateau.init(params) if plateau else None,
        ema={"params": params, "batch_stats": batch_stats} if ema else {},
    )


def make_train_step(
    model,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    *,
    flip: bool,
    label_smoothing: float = 0.0,
    augment: StepAugment = StepAugment(),
    accumulate: int = 1,
    remat: bool = False,
    ema: float = 0.0,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """The step for a model.

    A batch is `video` uint8 `[N, T, H, W, C]`, `label` int32 `[N]`, `weight` f32 `[N]` (0 for
    a video that could not be read; it then counts nowhere) and `sample` int32 `[N, 3]`
    (epoch, video, view). Metrics: `loss`, `top1` (share of the batch's clips), `grad_norm`; and
    `broken` int32 `[N]`, the videos of weight 0, -1 for the others.

    The loss is the cross entropy of a softmax. Labels f32 `[N, classes]` are those of
    multi-label data, 1 for each one a clip has: then it is the binary cross entropy of a
    sigmoid, the mean over the classes. Where clips are mixed, so are their labels, and `top1`
    counts answers that make up at least half a clip; of several labels, any is a hit.

    A model may answer `[N, steps, classes]` in training: every step's loss counts alike, and
    the last step's answer for `top1` (ConvNet + LSTM). What it sows into "losses" is added to
    the loss, and told as `other_loss`.

    With `accumulate` the batch is computed in so many parts, each of whole BN groups: but for
    dropout's masks and rounding, the result is the same. `remat`: see `remat.stages_again`;
    `ema`: see `config.Run`.
    """
    if augment.colors and preprocessing.video_shape[-1] == 2:
        raise ConfigError(
            "augment: brightness, contrast, saturation, hue and randaugment change colors, and "
            f"modality={preprocessing.modality!r} by {preprocessing.flow!r} has none"
        )

    classes, parts = model.num_classes, _Parts(model, accumulate)

    def inputs(batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """The clips as the network sees them, and what it should answer, `[N, classes]`."""

        def keys(purpose: int) -> jax.Array:
            return sample_keys(jax.random.fold_in(key, purpose), batch["sample"])

        video, label = batch["video"], batch["label"]
        if flip:
            video = random_flip(video, keys(0))
        if augment.colors:
            video = change_colors(video, keys(2), augment)
        clip = prepare(video, preprocessing, model.dtype)
        if augment.erasing:
            clip = erase(clip, keys(3), augment.erasing)
        truth = label if label.ndim == 2 else jax.nn.one_hot(label, classes)
        if augment.mixes:
            clip, share = mix(
                clip, batch["weight"], keys(4), mixup=augment.mixup, cutmix=augment.cutmix
            )
            truth = share[:, None] * truth + (1 - share)[:, None] * partner(truth)
        return {"clip": clip, "truth": truth, "weight": batch["weight"]}

    def train_step(state: TrainState, batch: Batch, key: jax.Array):
        several = batch["label"].ndim == 2
        if several and label_smoothing:
            raise ConfigError(f"label_smoothing={label_smoothing}: multi-label data allow only 0")
        counted = jnp.maximum(batch["weight"].sum(), 1.0)
        dropout = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)

        def loss_of(params, given, dropout):
            with stages_again() if remat else contextlib.nullcontext():
                (logits, _), changed = parts.model.apply(
                    {"params": params, "batch_stats": state.batch_stats},
                    given["clip"],
                    train=True,
                    mutable=["batch_stats", "losses"],
                    rngs={"dropout": dropout},
                )
            logits = logits.astype(jnp.float32).reshape(len(logits), -1, logits.shape[-1])
            targets = optax.smooth_labels(given["truth"], label_smoothing)[:, None]
            if several:
                losses = optax.sigmoid_binary_cross_entropy(logits, targets).mean((1, 2))
            else:
                losses = optax.softmax_cross_entropy(logits, targets).mean(1)
            others = [leaf / accumulate for leaf in jax.tree.leaves(changed.get("losses", {}))]
            loss = (losses * given["weight"]).sum() / counted + sum(others)
            means = jax.tree.map(lambda s: s / accumulate, changed.get("batch_stats", {}))
            return loss, (logits[:, -1], (means, sum(others) if others else None))

        def gradients(given, dropout):
            (loss, (logits, summed)), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, given, dropout
            )
            return (loss, grads, *summed), logits

        given = inputs(batch, key)
        (loss, grads, batch_stats, others), logits = parts.sum(gradients, given, dropout)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        scale = state.plateau.scale if state.plateau else 1.0
        updates = jax.tree.map(lambda u: scale * u, updates)
        hits = jnp.take_along_axis(given["truth"], logits.argmax(-1)[:, None], 1)[:, 0] >= 0.5
        metrics = {
            "loss": loss,
            "top1": weighted_mean(hits.astype(jnp.float32), batch["weight"]),
            "grad_norm": optax.tree.norm(grads),
            "broken": jnp.where(batch["weight"] == 0, batch["sample"][:, 1], -1),
        }
        if others is not None:
            metrics["other_loss"] = others
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema:
            keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            now = {"params": new.params, "batch_stats": new.batch_stats}
            averaged = jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, state.ema, now)
            new = new.replace(ema=averaged)
        return new, metrics

    return train_step


class _Parts:
    """A batch in parts of whole BN groups: of every `count` neighboring groups each part has one,
    so that all devices work on every part."""

    def __init__(self, model, count: int):
        groups = getattr(model, "bn_groups", count)
        if groups % count:
            raise ConfigError(
                f"config.parallel.accumulate={count}: must divide config.model.bn_groups={groups}, "
                "because a part is made of whole groups"
            )
        self.count, self.groups = count, groups
        alone = count > 1 and hasattr(model, "bn_groups")
        self.model = model.clone(bn_groups=groups // count) if alone else model

    def sum(self, function: Callable[..., Any], given: Any, key: jax.Array):
        """The sum over the parts of `function(part, key)[0]`, and its `[1]` of the whole batch."""
        if self.count == 1:
            return function(given, key)
        size = len(jax.tree.leaves(given)[0])
        if size % self.groups:
            raise ConfigError(f"a batch of {size} clips is not {self.groups} groups of BN")

        def apart(x):
            x = x.reshape(self.groups // self.count, self.count, -1, *x.shape[1:])
            return jnp.moveaxis(x, 1, 0).reshape(self.count, -1, *x.shape[3:])

        def together(x):
            x = x.reshape(self.count, self.groups // self.count, -1, *x.shape[2:])
            return jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[3:])

        def add(total, part):
            summed, rows = function(part[0], jax.random.fold_in(key, part[1]))
            return jax.tree.map(jnp.add, total, summed), rows

        parts = jax.tree.map(apart, given), jnp.arange(self.count)
        shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts[0]), key)[0]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, rows = jax.lax.scan(add, zeros, parts)
        return total, together(rows)


def make_predict_step(model, preprocessing: Preprocessing, aggregation: str):
    """`(variables, video [N, T, H, W, C]) -> scores [N, classes]`, f32, per clip; the
    preprocessing is that of a test clip, `Protocol.apply`."""

    def predict_step(variables: dict[str, Any], video: jax.Array) -> jax.Array:
        clip = prepare(video, preprocessing, model.dtype)
        logits, _ = model.apply(variables, clip, train=False)
        logits = logits.astype(jnp.float32)
        scores = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}
        return scores[aggregation](logits) if aggregation in scores else logits

    return predict_step


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean over the samples that count; 0 where none does."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
