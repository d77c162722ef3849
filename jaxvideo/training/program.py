"""The jitted training step and its FLOPs, shared by `training.loop` and `planning.plan`."""

from __future__ import annotations

from typing import Any

import jax

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
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.whole))


def model_flops(model: Any, run: Run) -> int:
    """Returns the FLOPs that the network needs for one training step, for `chips.mfu`.

    A multiply-add of a convolution or matrix product counts as two FLOPs, and the backward pass
    as two forward passes.
    """
    return 2 * 3 * trace_of_clip(model, run.preprocessing.shape).macs * run.batch_size
