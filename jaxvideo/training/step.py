"""The whole algorithm: one pure function `(state, batch, key) -> (state, metrics)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxvideo.training.preprocess import prepare, random_flip, sample_keys
from jaxvideo.types import Preprocessing

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes; a checkpoint holds exactly this."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    plateau: Any


def init_variables(model, preprocessing: Preprocessing, seed: int) -> dict[str, Any]:
    """Fresh `{'params': ..., 'batch_stats': ...}`. Call it under `jit`: XLA then drops the
    forward pass that `init` traces, and only the random numbers are computed."""
    clip = jnp.zeros((1, *preprocessing.shape), jnp.float32)
    return model.init(jax.random.key(seed), clip, train=False)


def make_train_step(
    model,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    *,
    flip: bool,
    label_smoothing: float = 0.0,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """The step for a model.

    A batch is `video` uint8 `[N, T, H, W, C]`, `label` int32 `[N]`, `weight` f32 `[N]` (0 for
    a video that could not be read; it then counts nowhere) and `sample` int32 `[N, 3]`
    (epoch, video, view). Metrics: `loss`, `top1` (share of the batch's clips), `grad_norm`.

    A model may answer `[N, steps, classes]` in training: every step's loss counts alike, and
    the last step's answer for `top1` (ConvNet + LSTM). What it sows into "losses" is added to
    the loss, and told as `other_loss`.
    """

    def train_step(state: TrainState, batch: Batch, key: jax.Array):
        video = batch["video"]
        if flip:
            video = random_flip(video, sample_keys(jax.random.fold_in(key, 0), batch["sample"]))
        clip = prepare(video, preprocessing, model.dtype)
        dropout = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)

        def loss_of(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            (logits, _), changed = model.apply(
                variables,
                clip,
                train=True,
                mutable=["batch_stats", "losses"],
                rngs={"dropout": dropout},
            )
            logits = logits.astype(jnp.float32).reshape(len(logits), -1, logits.shape[-1])
            targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
            targets = optax.smooth_labels(targets, label_smoothing)[:, None]
            losses = optax.softmax_cross_entropy(logits, targets).mean(1)
            others = jax.tree.leaves(changed.get("losses", {}))
            loss = weighted_mean(losses, batch["weight"]) + sum(others)
            return loss, (logits[:, -1], others, changed.get("batch_stats", {}))

        (loss, (logits, others, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        scale = state.plateau.scale if state.plateau else 1.0
        updates = jax.tree.map(lambda u: scale * u, updates)
        hits = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        metrics = {
            "loss": loss,
            "top1": weighted_mean(hits, batch["weight"]),
            "grad_norm": optax.tree.norm(grads),
        }
        if others:
            metrics["other_loss"] = jnp.asarray(sum(others))
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new, metrics

    return train_step


def make_predict_step(model, preprocessing: Preprocessing, aggregation: str):
    """`(variables, video [N, T, H, W, C]) -> scores [N, classes]`, f32, per clip; the
    preprocessing is that of a test clip, `Protocol.apply`."""

    def predict_step(variables: dict[str, Any], video: jax.Array) -> jax.Array:
        clip = prepare(video, preprocessing, model.dtype)
        logits, _ = model.apply(variables, clip, train=False)
        logits = logits.astype(jnp.float32)
        return jax.nn.softmax(logits) if aggregation == "softmax" else logits

    return predict_step


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean over the samples that count; 0 where none does."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
