"""What is compiled for a run: its state and its step, the same in `loop` and in `plan`."""

from __future__ import annotations

from typing import Any

import jax

from jaxvideo.models.summary import trace_of_clip
from jaxvideo.training.parallel import Layout
from jaxvideo.training.schema import Run
from jaxvideo.training.step import make_train_step


def jit_step(run: Run, model, optimizer, layout: Layout, shardings: Any):
    """The training step of a run, jitted; it gives its state away, which lies as `shardings`."""
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
    """FLOPs of the network for one step: two for each multiply-add of convolutions and matrix
    products, and the backward pass counted as two forward ones. What `chips.mfu` divides."""
    return 2 * 3 * trace_of_clip(model, run.preprocessing.shape).macs * run.batch_size
