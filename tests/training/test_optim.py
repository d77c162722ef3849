import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvideo.training.config import override, read_config
from jaxvideo.training.optim import (
    RULES,
    SCHEDULES,
    Optim,
    check_optim,
    make_optimizer,
    make_plateau,
    make_schedule,
)
from jaxvideo.types import ConfigError

PARAMS = {"conv": {"kernel": jnp.full(3, 2.0), "bias": jnp.full(2, 2.0)}, "fc": jnp.full(2, 2.0)}
GRADS = jax.tree.map(lambda p: jnp.full_like(p, 0.5), PARAMS)


def rates(optim, steps=100, **arguments):
    schedule = make_schedule(optim, **{"steps_per_epoch": 10, "epochs": 10, **arguments})
    return np.asarray([schedule(k) for k in range(steps)])


def test_step_counts_from_the_start_of_the_run():
    for warmup in (0.0, 2.0):
        r = rates(Optim(lr=1.0, schedule="step", milestones=(4, 8), warmup_epochs=warmup))
        np.testing.assert_allclose(r[20:40], 1.0)
        np.testing.assert_allclose(r[41:80], 0.1, rtol=1e-6)
        np.testing.assert_allclose(r[81:], 0.01, rtol=1e-6)


def test_warmup_is_linear_and_cosine_ends_at_zero():
    r = rates(Optim(lr=1.0, warmup_epochs=2.0, warmup_factor=0.1), steps=101)
    np.testing.assert_allclose(r[:21], 0.1 + 0.9 * np.arange(21) / 20, rtol=1e-5)
    np.testing.assert_allclose(r[60], 0.5, atol=1e-6)
    assert abs(r[100]) < 1e-6


def test_warmup_rises_to_the_whole_cosine():
    """PySlowFast: 34 of 196 epochs, from 0.01 to 0.0928 and not to 0.1."""
    r = rates(
        Optim(lr=0.1, schedule="whole_cosine", warmup_epochs=34.0, warmup_factor=0.1),
        steps=1961,
        epochs=196,
    )
    at = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(1961) / 1960))
    np.testing.assert_allclose(r[340:], at[340:], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(r[:341], np.linspace(0.01, at[340], 341), rtol=1e-5)
    assert round(float(r[340]), 4) == 0.0928


def test_constant():
    assert set(rates(Optim(lr=0.5, schedule="constant"))) == {0.5}


def steps(optim, count=1):
    optimizer = make_optimizer(optim, make_schedule(optim, steps_per_epoch=1, epochs=9), PARAMS)
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(count):
        updates, state = optimizer.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_momentum_and_decay_as_torch():
    """v = 0.9 v + (g + wd p), p -= lr v, written out for two steps."""
    got = steps(Optim(lr=0.1, schedule="constant", weight_decay=0.01), 2)["fc"][0]
    p, v = 2.0, 0.0
    for _ in range(2):
        v = 0.9 * v + (0.5 + 0.01 * p)
        p -= 0.1 * v
    np.testing.assert_allclose(got, p, rtol=1e-6)


def test_dampening_and_multiplied_rates():
    """v = 0.9 v + 0.1 (g + wd p), p -= lr v, with v = g + wd p in the first step, as in torch.
    Biases take twice that step."""
    optim = Optim(
        lr=0.1,
        schedule="constant",
        weight_decay=0.01,
        dampening=0.9,
        multipliers=(("*/bias", 2.0),),
    )
    got = steps(optim, 2)
    for rate, found in ((0.1, got["fc"][0]), (0.2, got["conv"]["bias"][0])):
        p, v = 2.0, 0.0
        for damped in (1.0, 0.1):
            v = 0.9 * v + damped * (0.5 + 0.01 * p)
            p -= rate * v
        np.testing.assert_allclose(found, p, rtol=1e-6)


def test_nesterov():
    got = steps(Optim(lr=0.1, schedule="constant", nesterov=True))["fc"][0]
    np.testing.assert_allclose(got, 2.0 - 0.1 * (0.5 + 0.9 * 0.5), rtol=1e-6)


def test_patterns():
    optim = Optim(
        lr=0.1,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.1,
        no_decay=("*/bias",),
        frozen=("fc",),
    )
    params = steps(optim)
    np.testing.assert_allclose(params["conv"]["kernel"], 2.0 - 0.1 * 0.7, rtol=1e-6)
    np.testing.assert_allclose(params["conv"]["bias"], 2.0 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(params["fc"], 2.0)


def test_clipping():
    params = steps(Optim(lr=1.0, schedule="constant", momentum=0.0, clip_norm=0.1))
    moved = jax.tree.map(lambda a, b: a - b, params, PARAMS)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.1, rtol=1e-5)


def test_plateau_scales_after_patience():
    plateau = make_plateau(Optim(lr=1.0, schedule="plateau", patience=2, gamma=0.1))
    state = plateau.init(PARAMS)
    scales = []
    for loss in (1.0, 0.5, 0.5, 0.5, 0.5, 0.5):
        _, state = plateau.update(PARAMS, state, value=jnp.float32(loss))
        scales.append(float(state.scale))
    assert scales[0] == scales[2] == 1.0
    np.testing.assert_allclose(scales[-1], 0.01, rtol=1e-5)
    assert make_plateau(Optim(lr=1.0)) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.0}, r"optim\.lr=0\.0"),
        ({"schedule": "cos"}, "constant, step, cosine, whole_cosine, plateau"),
        ({"milestones": (3, 2)}, "must ascend"),
        ({"momentum": 1.0}, "momentum"),
        ({"clip_norm": -1.0}, "clip_norm"),
    ],
)
def test_bad_values(change, text):
    with pytest.raises(ConfigError, match=text):
        check_optim(Optim(**{"lr": 0.1, **change}))


def test_bad_patterns_and_warmup():
    with pytest.raises(ConfigError, match=r"optim\.frozen: the pattern 'fd'"):
        steps(Optim(lr=0.1, frozen=("fd",)))
    with pytest.raises(ConfigError, match="warmup_epochs"):
        rates(Optim(lr=0.1, warmup_epochs=10.0))


def test_a_second_cycle():
    """Schedule of I3D's flow network: the rate falls and restarts once."""
    optim = Optim(lr=0.1, schedule="step", milestones=(2.0, 3.0, 5.0), factors=(0.1, 0.01, 1.0))
    schedule = make_schedule(optim, steps_per_epoch=10, epochs=6)
    rates = [float(schedule(step)) for step in (0, 19, 21, 31, 49, 51)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001, 0.001, 0.1], rtol=1e-5)
    with pytest.raises(
        ConfigError, match=r"optim.factors=\(0.1,\): must be positive, one for each"
    ):
        Optim(lr=0.1, schedule="step", milestones=(1.0, 2.0), factors=(0.1,))


def test_wrong_multipliers():
    with pytest.raises(ConfigError, match=r"must be \(pattern, positive factor\) pairs"):
        Optim(lr=0.1, multipliers=(("*/bias", 0.0),))


def test_adam():
    """The first step has the size of the rate for any gradient; decay is part of the gradient."""
    params = {"a": {"kernel": jnp.array([2.0, -3.0])}}
    optim = Optim(lr=0.1, rule="adam", schedule="constant", weight_decay=1.0)
    schedule = make_schedule(optim, steps_per_epoch=1, epochs=1)
    optimizer = make_optimizer(optim, schedule, params)
    grads = {"a": {"kernel": jnp.array([-1.5, 1.0])}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"]["kernel"], [-0.1, 0.1], rtol=1e-4)


OPTIONS = {
    "sgd": {},
    "rmsprop": {"decay": 0.8, "centered": True},
    "adagrad": {"initial_accumulator_value": 0.2},
    "adadelta": {"rho": 0.8},
    "lion": {"b2": 0.9},
    "lars": {"trust_coefficient": 0.01},
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_that_of_optax(name):
    """Three steps, with decay on all parameters but the biases and an option of the rule."""
    rule, options = RULES[name], OPTIONS.get(name, {"b1": 0.8})
    optim = Optim(
        lr=0.1,
        rule=name,
        schedule="constant",
        momentum=0.7,
        weight_decay=0.01,
        no_decay=("*/bias",),
        options=options,
    )
    mask = {"conv": {"kernel": True, "bias": False}, "fc": True}
    expected = dict(options)
    if rule.momentum:
        expected["momentum"] = 0.7
    if name == "lars":
        expected |= {"weight_decay": 0.01, "weight_decay_mask": mask, "trust_ratio_mask": mask}
    elif rule.decoupled:
        expected |= {"weight_decay": 0.01, "mask": mask}
    theirs = getattr(optax, name)(0.1, **expected)
    if not rule.decoupled:
        theirs = optax.chain(optax.add_decayed_weights(0.01, mask), theirs)
    state, params = theirs.init(PARAMS), PARAMS
    for _ in range(3):
        updates, state = theirs.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    found = steps(optim, 3)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert all(float(np.abs(a - 2.0).max()) > 0 for a in jax.tree.leaves(found))


def test_options_from_the_command_line():
    values = {"model": {"name": "c3d"}, "optim": {"rule": "adamw"}}
    override(values, "optim.options.b2=0.95")
    assert read_config(values).optim.options == {"b2": 0.95}
    override(values, "optim.options.momentum=0.9")
    with pytest.raises(ConfigError, match="'momentum' is no option of 'adamw'; allowed are b1, b2"):
        read_config(values)


@pytest.mark.parametrize("name", ["adamw", "lars", "rmsprop"])
def test_rules_with_frozen_parameters(name):
    found = steps(Optim(lr=0.1, rule=name, weight_decay=0.1, momentum=0.0, frozen=("fc",)), 2)
    np.testing.assert_array_equal(found["fc"], 2.0)
    assert (np.asarray(found["conv"]["kernel"]) != 2.0).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rule": "sdg"}, r"optim\.rule='sdg': allowed are sgd, rmsprop, .*adamw, .*lars"),
        ({"rule": "adam", "nesterov": True}, r"nesterov=True: optim\.rule='adam' has no momentum"),
        (
            {"rule": "lars", "dampening": 0.1},
            r"dampening=0\.1: optim\.rule='lars' has no damp",
        ),
        ({"rule": "adam", "options": {"beta": 1}}, "'beta' is no option of 'adam'; allowed are b1"),
        ({"options": {"momentum": 0.5}}, "'momentum' is no option of 'sgd'; it has no options"),
        ({"schedule": "cos"}, r"optim\.schedule='cos': allowed are " + ", ".join(SCHEDULES)),
    ],
)
def test_what_a_rule_does_not_accept(change, text):
    with pytest.raises(ConfigError, match=text):
        check_optim(Optim(**{"lr": 0.1, **change}))
