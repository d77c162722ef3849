"""SGD as the papers ran it: momentum, weight decay in the gradient, five schedules; and Adam."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxvideo.training.schema import Optim
from jaxvideo.types import ConfigError
from jaxvideo.weights import tree

RULES = ("sgd", "adam")
SCHEDULES = ("constant", "step", "cosine", "whole_cosine", "plateau")


def check_optim(optim: Optim) -> None:
    """Checks the names of the update rule and of the schedule.

    Raises:
      ConfigError: an unknown name.
    """
    for name, allowed in (("rule", RULES), ("schedule", SCHEDULES)):
        if getattr(optim, name) not in allowed:
            raise ConfigError(
                f"optim.{name}={getattr(optim, name)!r}: allowed are {', '.join(allowed)}"
            )
    if optim.rule == "adam" and (optim.nesterov or optim.dampening):
        raise ConfigError(
            f"optim.rule='adam' has no optim.nesterov (here {optim.nesterov}) and no "
            f"optim.dampening (here {optim.dampening})"
        )


def make_schedule(optim: Optim, *, steps_per_epoch: int, epochs: float) -> optax.Schedule:
    """Learning rate as a function of the step (for "plateau": before its scaling)."""
    check_optim(optim)
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
    check_optim(optim)
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
