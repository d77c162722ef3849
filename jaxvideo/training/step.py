"""The training step: one pure function `(state, batch, key) -> (state, metrics)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxvideo.inference.prepare import prepare, to_rgb
from jaxvideo.training.augment import change_colors, erase, mix, partner, random_flip, sample_keys
from jaxvideo.training.freeze import detached, fixed_norms, frozen_norms, kept
from jaxvideo.training.losses import Loss, get_loss
from jaxvideo.training.remat import remat_stages
from jaxvideo.training.schema import StepAugment
from jaxvideo.types import ConfigError, Preprocessing
from jaxvideo.weights import tree

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes; a checkpoint holds exactly this.

    Attributes:
      step: int32, number of finished steps.
      params, batch_stats: the variables of the network.
      opt_state: state of the optimizer.
      plateau: state of `optim.make_plateau`; None for other schedules.
      ema: moving averages `{"params": ..., "batch_stats": ...}`, or an empty dict.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    plateau: Any
    ema: Any = flax.struct.field(default_factory=dict)


def init_variables(model, preprocessing: Preprocessing, seed: int) -> dict[str, Any]:
    """Returns random `{'params': ..., 'batch_stats': ...}` of a network.

    Call it under `jit`: XLA then removes the forward pass that `init` traces.
    """
    clip = jnp.zeros((1, *preprocessing.shape), jnp.float32)
    return model.init(jax.random.key(seed), clip, train=False)


def first_state(
    variables: Mapping[str, Any], optimizer, plateau=None, *, ema: bool = False
) -> TrainState:
    """Returns the state before the first step; with `ema`, including moving averages."""
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
    loss: Loss | str = "",
    label_smoothing: float = 0.0,
    augment: StepAugment = StepAugment(),
    accumulate: int = 1,
    remat: bool = False,
    ema: float = 0.0,
    frozen: Sequence[str] = (),
    frozen_stats: bool = True,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the training step of a network.

    The batch of a step holds:

    - video: uint8 `[N, T, H, W, C]`.
    - label: int32 `[N]`, one class per clip. Or f32 `[N, classes]`: for multi-label data 1 for
      each class of the clip, for regression the values.
    - weight: f32 `[N]`. 0 if the video could not be read: it is excluded from the loss and from
      all metrics.
    - sample: int32 `[N, 3]`: epoch, video, view.

    Its metrics are:

    - loss: f32, the mean over clips, plus the losses that the network sows.
    - other_loss: f32, the part that the network sows into "losses"; absent if it sows none.
    - top1: f32, share of clips whose highest logit is a correct class: one of its labels, or for
      mixed clips the class of at least half of the clip.
    - grad_norm: f32, of the parameters that are trained.
    - broken: int32 `[N]`, indices of the videos of weight 0, -1 for the others.

    Args:
      model: a network. It may return `[N, steps, classes]` in training: every time step has equal
        weight in the loss, and the last one decides `top1` (ConvNet + LSTM).
      optimizer: see `optim.make_optimizer`.
      preprocessing: preprocessing of the clips in the batch.
      flip: mirror half of the clips.
      loss: a key of `losses.LOSSES`, or a function `(logits [N, steps, classes], targets
        [N, classes]) -> [N]`. "" (default): "softmax" for one class per clip, otherwise "sigmoid".
      label_smoothing: share of the target that is spread over all classes.
      augment: augmentation on the device.
      accumulate: number of micro-batches of whole BN groups. Except for dropout masks and
        rounding, the result does not depend on it.
      remat: recompute activations in the backward pass, see `remat.remat_stages`.
      ema: decay of the moving averages, see `schema.Run`.
      frozen: patterns of parameters that the optimizer does not train. No gradients are computed
        for them.
      frozen_stats: see `schema.Optim`.

    Raises:
      ConfigError: an unknown loss, or options that do not fit the network or the preprocessing.

    Example:
      step = jax.jit(make_train_step(model, optimizer, preprocessing, flip=True, loss="sigmoid"))
      state, metrics = step(state, batch, jax.random.key(0))
    """
    get_loss(loss)  # raises here if the name is unknown
    if augment.colors and preprocessing.video_shape[-1] == 2:
        raise ConfigError(
            "augment: brightness, contrast, saturation, hue and randaugment change colors, but "
            f"modality={preprocessing.modality!r} with flow={preprocessing.flow!r} has none; set "
            "them to 0"
        )

    classes, micro = model.num_classes, _MicroBatches(model, accumulate)

    def inputs(batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the network's clips, their targets `[N, classes]` and their weights."""

        def keys(purpose: int) -> jax.Array:
            return sample_keys(jax.random.fold_in(key, purpose), batch["sample"])

        video, label = to_rgb(batch["video"], preprocessing.crop), batch["label"]
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
            raise ConfigError(f"label_smoothing={label_smoothing}: must be 0 for multi-label data")
        losses_of = get_loss(loss, several=several)
        counted = jnp.maximum(batch["weight"].sum(), 1.0)
        dropout = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        statistics = tree.flatten(state.batch_stats) if frozen and frozen_stats else {}
        fixed = frozen_norms(tree.flatten(state.params), statistics, frozen)

        def loss_of(params, given, dropout):
            params = detached(params, frozen)
            with fixed_norms(fixed), remat_stages() if remat else contextlib.nullcontext():
                (logits, _), changed = micro.model.apply(
                    {"params": params, "batch_stats": state.batch_stats},
                    given["clip"],
                    train=True,
                    mutable=["batch_stats", "losses"],
                    rngs={"dropout": dropout},
                )
            logits = logits.astype(jnp.float32).reshape(len(logits), -1, logits.shape[-1])
            losses = losses_of(logits, optax.smooth_labels(given["truth"], label_smoothing))
            others = [leaf / accumulate for leaf in jax.tree.leaves(changed.get("losses", {}))]
            total = (losses * given["weight"]).sum() / counted + sum(others)
            means = jax.tree.map(lambda s: s / accumulate, changed.get("batch_stats", {}))
            return total, (logits[:, -1], (means, sum(others) if others else None))

        def gradients(given, dropout):
            (total, (logits, summed)), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, given, dropout
            )
            return (total, grads, *summed), logits

        given = inputs(batch, key)
        (total, grads, batch_stats, others), logits = micro.sum(gradients, given, dropout)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        scale = state.plateau.scale if state.plateau else 1.0
        updates = jax.tree.map(lambda u: scale * u, updates)
        hits = jnp.take_along_axis(given["truth"], logits.argmax(-1)[:, None], 1)[:, 0] >= 0.5
        metrics = {
            "loss": total,
            "top1": weighted_mean(hits.astype(jnp.float32), batch["weight"]),
            "grad_norm": optax.tree.norm(grads),
            "broken": jnp.where(batch["weight"] == 0, batch["sample"][:, 1], -1),
        }
        if others is not None:
            metrics["other_loss"] = others
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=kept(batch_stats, state.batch_stats, fixed),
            opt_state=opt_state,
        )
        if ema:
            keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            now = {"params": new.params, "batch_stats": new.batch_stats}
            averaged = jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, state.ema, now)
            new = new.replace(ema=averaged)
        return new, metrics

    return train_step


class _MicroBatches:
    """Micro-batches of whole BN groups, interleaved so that every device works on each of them."""

    def __init__(self, model, count: int):
        groups = getattr(model, "bn_groups", count)
        if groups % count:
            raise ConfigError(
                f"config.parallel.accumulate={count}: must divide config.model.bn_groups={groups}, "
                "because a micro-batch consists of whole BN groups"
            )
        self.count, self.groups = count, groups
        has_groups = count > 1 and hasattr(model, "bn_groups")
        self.model = model.clone(bn_groups=groups // count) if has_groups else model

    def sum(self, function: Callable[..., Any], given: Any, key: jax.Array):
        """Applies `function(micro_batch, key) -> (summed, rows)` to every micro-batch.

        Returns:
          The sum of `summed`, and `rows` of the whole batch, in the order of the batch.
        """
        if self.count == 1:
            return function(given, key)
        size = len(jax.tree.leaves(given)[0])
        if size % self.groups:
            raise ConfigError(
                f"a batch of {size} clips is not divisible by config.model.bn_groups={self.groups}"
            )

        def split(x):
            x = x.reshape(self.groups // self.count, self.count, -1, *x.shape[1:])
            return jnp.moveaxis(x, 1, 0).reshape(self.count, -1, *x.shape[3:])

        def join(x):
            x = x.reshape(self.count, self.groups // self.count, -1, *x.shape[2:])
            return jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[3:])

        def add(total, part):
            summed, rows = function(part[0], jax.random.fold_in(key, part[1]))
            return jax.tree.map(jnp.add, total, summed), rows

        parts = jax.tree.map(split, given), jnp.arange(self.count)
        shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts[0]), key)[0]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, rows = jax.lax.scan(add, zeros, parts)
        return total, join(rows)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the weighted mean; 0 if all weights are 0."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
