"""Optimizers and learning rate schedules: a table of each, and the optimizer of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxvideo.training.schema import Optim
from jaxvideo.types import ConfigError, UsageError
from jaxvideo.weights import tree

# --- Update rules -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rule:
    """An update rule.

    Attributes:
      make: function of optax, `(learning_rate, **arguments) -> GradientTransformation`.
      options: arguments of `make` that `Optim.options` may set.
      momentum: True if `make` takes `momentum` and `nesterov`.
      decoupled: True if `make` takes `weight_decay` and `mask`, the parameters that decay.
    """

    make: Callable[..., optax.GradientTransformation]
    options: tuple[str, ...] = ()
    momentum: bool = False
    decoupled: bool = False


def _lars(rate, *, mask, momentum, **arguments):
    """LARS; as usual, parameters without weight decay (biases, BN) have no trust ratio either."""
    # optax.lars always has a momentum buffer; it does not accept None.
    masks = {"weight_decay_mask": mask, "trust_ratio_mask": mask}
    return optax.lars(rate, momentum=momentum or 0.0, **masks, **arguments)


_ADAM = ("b1", "b2", "eps", "eps_root")

#: Update rules by name. All but "lars" are optax functions of this name.
RULES: dict[str, Rule] = {
    "sgd": Rule(optax.sgd, momentum=True),
    "rmsprop": Rule(optax.rmsprop, ("decay", "eps", "initial_scale", "centered"), momentum=True),
    "adagrad": Rule(optax.adagrad, ("initial_accumulator_value", "eps")),
    "adadelta": Rule(optax.adadelta, ("rho", "eps")),
    "adam": Rule(optax.adam, _ADAM),
    "nadam": Rule(optax.nadam, _ADAM),
    "radam": Rule(optax.radam, (*_ADAM, "threshold")),
    "adabelief": Rule(optax.adabelief, _ADAM),
    "amsgrad": Rule(optax.amsgrad, _ADAM),
    "yogi": Rule(optax.yogi, ("b1", "b2", "eps")),
    "adamw": Rule(optax.adamw, _ADAM, decoupled=True),
    "nadamw": Rule(optax.nadamw, _ADAM, decoupled=True),
    "lion": Rule(optax.lion, ("b1", "b2"), decoupled=True),
    "lamb": Rule(optax.lamb, _ADAM, decoupled=True),
    "lars": Rule(_lars, ("trust_coefficient", "eps"), momentum=True, decoupled=True),
}


# --- Schedules ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Span:
    """The part of a run after the warm-up, in steps: from `start` to `end`."""

    start: int
    end: int
    steps_per_epoch: int


def _constant(optim: Optim, span: Span) -> optax.Schedule:
    del span
    return optax.constant_schedule(optim.lr)


def _step(optim: Optim, span: Span) -> optax.Schedule:
    steps = [round(epoch * span.steps_per_epoch) - span.start for epoch in optim.milestones]
    shares = optim.factors or [optim.gamma**i for i in range(1, len(steps) + 1)]
    ratios = [after / before for before, after in zip([1.0, *shares], shares, strict=False)]
    return optax.piecewise_constant_schedule(optim.lr, dict(zip(steps, ratios, strict=True)))


def _cosine(optim: Optim, span: Span) -> optax.Schedule:
    return optax.cosine_decay_schedule(optim.lr, max(span.end - span.start, 1))


def _whole_cosine(optim: Optim, span: Span) -> optax.Schedule:
    whole = optax.cosine_decay_schedule(optim.lr, span.end)
    return lambda step: whole(step + span.start)


#: Schedules by name: functions `(optim, span) -> schedule`. Step 0 of a schedule is `span.start`.
SCHEDULES: dict[str, Callable[[Optim, Span], optax.Schedule]] = {
    "constant": _constant,
    # At every milestone, multiplies by `gamma` or switches to the next of `factors`.
    "step": _step,
    # From the end of the warm-up to zero at the end of the run.
    "cosine": _cosine,
    # From the start of the run; the warm-up ends at the cosine's value (SlowFast, X3D).
    "whole_cosine": _whole_cosine,
    # Constant; `make_plateau` scales the rate after validations.
    "plateau": _constant,
}


# --- The optimizer of a run ---------------------------------------------------------------


def check_optim(optim: Optim) -> None:
    """Checks the update rule, the schedule, and the settings that depend on the rule.

    Raises:
      ConfigError: a name is unknown, or the rule does not support a setting.
    """
    for name, table in (("rule", RULES), ("schedule", SCHEDULES)):
        if getattr(optim, name) not in table:
            raise UsageError(
                f"optim.{name}={getattr(optim, name)!r}: allowed are {', '.join(table)}"
            )
    rule = RULES[optim.rule]
    if optim.nesterov and not rule.momentum:
        others = [name for name, row in RULES.items() if row.momentum]
        raise ConfigError(
            f"optim.nesterov=True: optim.rule={optim.rule!r} has no momentum; set it to False, or "
            f"use one of {', '.join(others)} (Adam with Nesterov momentum is 'nadam')"
        )
    if optim.dampening and optim.rule != "sgd":
        raise ConfigError(
            f"optim.dampening={optim.dampening}: optim.rule={optim.rule!r} has no dampening; "
            "set it to 0, or use 'sgd'"
        )
    for name in optim.options:
        if name not in rule.options:
            allowed = (
                f"allowed are {', '.join(rule.options)}" if rule.options else "it has no options"
            )
            raise ConfigError(f"optim.options: {name!r} is no option of {optim.rule!r}; {allowed}")


def make_schedule(optim: Optim, *, steps_per_epoch: int, epochs: float) -> optax.Schedule:
    """Returns the learning rate as a function of the step ("plateau": before its scaling).

    Raises:
      ConfigError: the warm-up is not shorter than the run.
    """
    check_optim(optim)
    total = round(epochs * steps_per_epoch)
    warmup = round(optim.warmup_epochs * steps_per_epoch)
    if not total:  # a run that only tests
        return optax.constant_schedule(optim.lr)
    if warmup and warmup >= total:
        raise ConfigError(
            f"optim.warmup_epochs={optim.warmup_epochs:g}: must be less than "
            f"config.epochs={epochs:g} in steps, and is {warmup} of {total}"
        )
    after = SCHEDULES[optim.schedule](optim, Span(warmup, total, steps_per_epoch))
    if not warmup:
        return after
    rise = optax.linear_schedule(
        optim.warmup_factor * optim.lr, float(np.asarray(after(0))), warmup
    )
    return optax.join_schedules([rise, after], [warmup])


def same_rates(optim: Optim, epochs: float, longer: float) -> bool:
    """Returns True if a run of `epochs` has the learning rates of a longer run's beginning.

    It is then the beginning of the longer run. False for schedules that end with the run, such as
    a cosine.

    Example:
      >>> same_rates(Optim(schedule="constant"), 2.0, 4.0)
      True
    """
    steps = 1000  # per epoch; schedules scale with it
    one = make_schedule(optim, steps_per_epoch=steps, epochs=epochs)
    other = make_schedule(optim, steps_per_epoch=steps, epochs=longer)
    places = np.unique(np.linspace(0, max(round(epochs * steps) - 1, 0), 200).astype(int))
    return all(np.asarray(one(step)) == np.asarray(other(step)) for step in places)


def make_plateau(optim: Optim) -> optax.GradientTransformationExtraArgs | None:
    """Returns the scaling of the learning rate by the validation loss; None for other schedules.

    Update it once per validation, not per step.
    """
    if optim.schedule != "plateau":
        return None
    return optax.contrib.reduce_on_plateau(factor=optim.gamma, patience=optim.patience, rtol=1e-4)


def make_optimizer(
    optim: Optim, schedule: optax.ScalarOrSchedule, params: Any
) -> optax.GradientTransformation:
    """Returns the optimizer of a tree of parameters.

    Args:
      schedule: learning rate, or a function of the step.
      params: the parameters, or their shapes.

    Raises:
      ConfigError: a pattern of `optim` matches no parameter.

    Example:
      schedule = make_schedule(optim, steps_per_epoch=100, epochs=10)
      optimizer = make_optimizer(optim, schedule, variables["params"])
    """
    check_optim(optim)
    names = list(tree.flatten(params))
    undecayed = tree.matching(names, optim.no_decay, "optim.no_decay")
    frozen = tree.matching(names, optim.frozen, "optim.frozen")
    decayed = tree.unflatten({name: name not in undecayed for name in names})
    rule, arguments = RULES[optim.rule], dict(optim.options)
    if rule.momentum:
        arguments |= {"momentum": optim.momentum or None, "nesterov": optim.nesterov}
    if rule.decoupled:
        arguments |= {"weight_decay": optim.weight_decay, "mask": decayed}
    # The optimizer state in checkpoints has this structure; keep the order and number of the parts.
    parts = []
    if optim.clip_norm:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    if optim.weight_decay and not rule.decoupled:
        parts.append(optax.add_decayed_weights(optim.weight_decay, decayed))
    if optim.dampening:
        # torch adds the first gradient to the momentum undamped.
        parts.append(
            optax.scale_by_schedule(lambda step: jnp.where(step == 0, 1.0, 1 - optim.dampening))
        )
    parts.append(rule.make(schedule, **arguments))
    for pattern, factor in optim.multipliers:
        faster = tree.matching(names, [pattern], "optim.multipliers")
        mask = tree.unflatten({name: name in faster for name in names})
        parts.append(optax.masked(optax.scale(factor), mask))
    optimizer = optax.chain(*parts)
    if not frozen:
        return optimizer
    labels = tree.unflatten({name: "frozen" if name in frozen else "trained" for name in names})
    # A mask around the optimizer would conflict with the mask of `add_decayed_weights`.
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
