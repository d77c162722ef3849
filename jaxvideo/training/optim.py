"""SGD as the papers ran it: momentum, weight decay in the gradient, five schedules; and Adam."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxvideo.types import ConfigError
from jaxvideo.weights import tree

RULES = ("sgd", "adam")
SCHEDULES = ("constant", "step", "cosine", "whole_cosine", "plateau")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer of a run. Lengths are in epochs, patterns as in `weights.tree.matching`.

    Attributes:
      lr: learning rate after warm-up, for the whole (global) batch.
      rule: "sgd"; or "adam", with its usual constants and without a momentum of its own.
      schedule: "constant"; "step", times `gamma` at every milestone; "cosine", from the end
        of the warm-up to zero at the end of the run; "whole_cosine", from the start of the run,
        and the warm-up rises to where it then is (SlowFast, X3D); "plateau", times `gamma` when
        the validation loss has not fallen for `patience` validations.
      milestones: epochs of "step", ascending, counted from the start of the run.
      factors: the rate after each milestone as a share of `lr`, instead of powers of `gamma`
        (I3D's flow network begins a second cycle).
      warmup_epochs: linear from `warmup_factor * lr` to the schedule's first rate after them.
      weight_decay: L2, added to the gradient before momentum, as torch and Caffe do.
      no_decay: parameters without decay, e.g. `("*/bias",)`.
      multipliers: `(pattern, factor)`: parameters with so many times the rate; Caffe's networks
        double their biases'. Factors of several patterns multiply.
      dampening: torch's; the gradient enters the momentum times 1 - dampening.
      frozen: parameters that stay as they are.
      clip_norm: global norm that the gradient is clipped to; 0 does not clip.
    """

    lr: float
    rule: str = "sgd"
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    gamma: float = 0.1
    patience: int = 10
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    multipliers: tuple[tuple[str, float], ...] = ()
    dampening: float = 0.0
    frozen: tuple[str, ...] = ()
    clip_norm: float = 0.0

    def __post_init__(self):
        if self.rule not in RULES:
            raise ConfigError(f"optim.rule={self.rule!r}: allowed are {', '.join(RULES)}")
        if self.rule == "adam" and (self.nesterov or self.dampening):
            raise ConfigError("optim.rule='adam' has neither nesterov nor dampening")
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"optim.schedule={self.schedule!r}: allowed are {', '.join(SCHEDULES)}"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"optim.milestones={self.milestones}: must ascend")
        if self.factors and (len(self.factors) != len(self.milestones) or min(self.factors) <= 0):
            raise ConfigError(
                f"optim.factors={self.factors}: one positive share for each of "
                f"milestones={self.milestones}"
            )
        if self.nesterov and (self.dampening or not self.momentum):
            raise ConfigError("optim.nesterov wants a momentum, and no dampening")
        if self.dampening and not self.momentum:
            raise ConfigError(f"optim.dampening={self.dampening} wants a momentum")
        for row in self.multipliers:
            if len(row) != 2 or not isinstance(row[0], str) or not row[1] > 0:
                raise ConfigError(
                    f"optim.multipliers={self.multipliers}: rows of (pattern, positive factor)"
                )
        allowed = {
            "lr": self.lr > 0,
            "gamma": 0 < self.gamma < 1,
            "momentum": 0 <= self.momentum < 1,
            "dampening": 0 <= self.dampening < 1,
            "weight_decay": self.weight_decay >= 0,
            "clip_norm": self.clip_norm >= 0,
            "warmup_epochs": self.warmup_epochs >= 0,
            "patience": self.patience >= 1,
        }
        for name, fine in allowed.items():
            if not fine:
                raise ConfigError(f"optim.{name}={getattr(self, name)} is out of range")


def make_schedule(optim: Optim, *, steps_per_epoch: int, epochs: float) -> optax.Schedule:
    """Learning rate as a function of the step (for "plateau": before its scaling)."""
    total = round(epochs * steps_per_epoch)
    warmup = round(optim.warmup_epochs * steps_per_epoch)
    if not total:  # nothing is trained
        return optax.constant_schedule(optim.lr)
    if warmup and warmup >= total:
        raise ConfigError(
            f"optim.warmup_epochs={optim.warmup_epochs}: not shorter than the run's {epochs}"
        )
    after: optax.Schedule
    if optim.schedule == "step":
        # Counted from the start of the run, while `join_schedules` counts from the warm-up.
        steps = [round(m * steps_per_epoch) - warmup for m in optim.milestones]
        shares = optim.factors or [optim.gamma**i for i in range(1, len(steps) + 1)]
        ratios = [after / before for before, after in zip([1.0, *shares], shares, strict=False)]
        after = optax.piecewise_constant_schedule(optim.lr, dict(zip(steps, ratios, strict=True)))
    elif optim.schedule == "cosine":
        after = optax.cosine_decay_schedule(optim.lr, max(total - warmup, 1))
    elif optim.schedule == "whole_cosine":
        whole = optax.cosine_decay_schedule(optim.lr, total)

        after = lambda step: whole(step + warmup)  # noqa: E731
    else:
        after = optax.constant_schedule(optim.lr)
    if not warmup:
        return after
    rise = optax.linear_schedule(
        optim.warmup_factor * optim.lr, float(np.asarray(after(0))), warmup
    )
    return optax.join_schedules([rise, after], [warmup])


def make_plateau(optim: Optim) -> optax.GradientTransformationExtraArgs | None:
    """Scales the rate by the validation loss; updated once per validation, not per step."""
    if optim.schedule != "plateau":
        return None
    return optax.contrib.reduce_on_plateau(factor=optim.gamma, patience=optim.patience, rtol=1e-4)


def make_optimizer(
    optim: Optim, schedule: optax.Schedule, params: Any
) -> optax.GradientTransformation:
    """The update rule over a tree of parameters (arrays or their shapes)."""
    names = list(tree.flatten(params))
    undecayed = tree.matching(names, optim.no_decay, "optim.no_decay")
    frozen = tree.matching(names, optim.frozen, "optim.frozen")
    decayed = tree.unflatten({name: name not in undecayed for name in names})
    parts = []
    if optim.clip_norm:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    if optim.weight_decay:
        parts.append(optax.add_decayed_weights(optim.weight_decay, decayed))
    if optim.dampening:
        # torch puts the first gradient whole into the momentum.
        parts.append(
            optax.scale_by_schedule(lambda step: jnp.where(step == 0, 1.0, 1 - optim.dampening))
        )
    if optim.rule == "adam":
        parts.append(optax.adam(schedule))
    else:
        momentum = optim.momentum or None
        parts.append(optax.sgd(schedule, momentum=momentum, nesterov=optim.nesterov))
    for pattern, factor in optim.multipliers:
        faster = tree.matching(names, [pattern], "optim.multipliers")
        mask = tree.unflatten({name: name in faster for name in names})
        parts.append(optax.masked(optax.scale(factor), mask))
    optimizer = optax.chain(*parts)
    if not frozen:
        return optimizer
    labels = tree.unflatten({name: "frozen" if name in frozen else "trained" for name in names})
    # `add_decayed_weights` would meet the masked-out leaves of its own mask otherwise.
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
