"""The jitted training step and its FLOPs, shared by `training.loop` and `planning.plan`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxvideo.inference.prepare import to_rgb
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.training.parallel import Layout
from jaxvideo.training.schema import Run
from jaxvideo.training.step import make_train_step


def jit_step(run: Run, model, optimizer, layout: Layout, shardings: Any):
    """Returns the jitted training step. The state is donated and has sharding `shardings`."""
    step = make_train_step(
        model,
        optimizer,
        run.preprocessing,
        flip=run.augment.flip,
        loss=run.loss,
        label_smoothing=run.label_smoothing,
        augment=run.augment,
        accumulate=run.parallel.accumulate,
        remat=run.parallel.remat,
        ema=run.ema,
        frozen=run.optim.frozen,
        frozen_stats=run.optim.frozen_stats,
    )

    def placed(state: Any, batch: dict[str, Any], key: Any):
        if layout.video != layout.rows:
            video = to_rgb(batch["video"], run.preprocessing.crop)
            batch = {**batch, "video": jax.lax.with_sharding_constraint(video, layout.video)}
        return step(state, batch, key)

    return jax.jit(placed, donate_argnums=0, out_shardings=(shardings, layout.whole))


def batch_shapes(run: Run, layout: Layout, classes: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes and shardings of the batch of a step, see `make_train_step`.

    Args:
      run: the config.
      layout: devices of the run.
      classes: number of classes if videos have several labels; 0 (default): one label per video.
    """
    n, rows = run.batch_size, layout.rows
    video = (n, *run.preprocessing.transfer_shape)
    label = ((n, classes), jnp.float32) if classes else ((n,), jnp.int32)
    return {
        "video": jax.ShapeDtypeStruct(video, jnp.uint8, sharding=layout.transfer(len(video))),
        "label": jax.ShapeDtypeStruct(*label, sharding=rows),
        "weight": jax.ShapeDtypeStruct((n,), jnp.float32, sharding=rows),
        "sample": jax.ShapeDtypeStruct((n, 3), jnp.int32, sharding=rows),
    }


def model_flops(model: Any, run: Run) -> int:
    """Returns the FLOPs that the network needs for one training step, for `chips.mfu`.

    A multiply-add of a convolution or matrix product counts as two FLOPs, and the backward pass
    as two forward passes.
    """
    return 2 * 3 * trace_of_clip(model, run.preprocessing.shape).macs * run.batch_size
