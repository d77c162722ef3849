"""Expansion: the paper's numbers, steps against brute force, objectives, the command."""

import argparse
import itertools
import json
import sys
from types import SimpleNamespace

import pytest

from jaxvideo.cli import expand as command
from jaxvideo.models import create_model
from jaxvideo.models.summary import summarize
from jaxvideo.progress import console
from jaxvideo.studies import expansion, objectives
from jaxvideo.studies.expansion import (
    Factors,
    complexity,
    contract,
    expand,
    grow,
    parse_macs,
    published,
    start_factors,
)
from jaxvideo.studies.objectives import command_objective, motion_objective, remembered
from jaxvideo.training.config import read_config
from jaxvideo.types import CheckpointError, ConfigError, JaxvideoError

# Paper: name, T x S^2, millions of multiply-adds, millions of parameters.
PAPER = [
    ("X2D", 1, 112, 20.7, 1.634),
    ("", 1, 112, 41.0, 2.653),
    ("", 2, 112, 80.2, 2.653),
    ("", 2, 160, 153.4, 2.653),
    ("", 2, 160, 303.6, 3.794),
    ("X3D-XS", 4, 160, 605.3, 3.794),
    ("", 8, 160, 1208.7, 3.794),
    ("", 16, 160, 2415.4, 3.794),
    ("X3D-S", 13, 160, 1962.9, 3.794),
    ("X3D-M", 16, 224, 4732.5, 3.794),
    ("", 16, 312, 9451.6, 3.794),
    ("X3D-L", 16, 312, 18367.7, 6.153),
    ("X3D-XL", 16, 312, 35837.6, 11.096),
]


@pytest.fixture(scope="module")
def paper():
    return list(published())


@pytest.mark.full
def test_published_steps(paper):
    found = [
        (
            s.name,
            s.factors.frames,
            s.factors.crop,
            round(s.macs / 1e6, 1),
            round(s.parameters / 1e6, 3),
        )
        for s in paper
    ]
    assert found == PAPER
    assert [s.macs for s in paper] == [complexity(s.factors) for s in paper]


@pytest.mark.full
@pytest.mark.parametrize("name", ["x3d_xs", "x3d_s", "x3d_m", "x3d_l", "x3d_xl"])
def test_published_networks_are_the_registrys(paper, name):
    """The clips agree as well: 4 x 12, 13 x 6 and 16 x 5 at 30 frames per second."""
    (step,) = (s for s in paper if s.name.lower().replace("-", "_") == name)
    assert step.factors == start_factors(name)


@pytest.mark.parametrize(
    "factors",
    [
        Factors(3, 1.0, 97, 1.3, 0.7, 1.4),
        Factors(5, 2.0, 136, 2.9, 3.15, 0.3),
        Factors(1, 2.0, 41, 4.1, 1.05, 3.1),
    ],
)
def test_complexity_is_the_networks(factors):
    """For odd sizes and factors that need rounding."""
    network = summarize(**factors.model, frames=factors.frames, crop=factors.crop)
    assert complexity(factors) == network.macs


# Values of an axis above v, up to more than twice the cost of any start below.
AXES = {
    "fast": ("frames", lambda v: range(v + 1, 4 * v + 4)),
    "temporal": ("frames", lambda v: range(v + 1, 4 * v + 4)),
    "spatial": ("crop", lambda v: range(8 * (v // 8 + 1), 4 * v, 8)),
    "depth": ("depth", lambda v: [n / 10 for n in range(round(10 * v) + 1, 600)]),
    "width": ("width", lambda v: [n / 10 for n in range(round(10 * v) + 1, 300)]),
    "bottleneck": ("bottleneck", lambda v: [n / 20 for n in range(round(20 * v) + 1, 2000)]),
}


def brute(start, target, objective):
    """Computes (move, factors) of each step by trying every value of every axis."""

    def cost(sizes):
        return complexity(Factors(**sizes))

    def changed(now, axis, value):
        field, _ = AXES[axis]
        rate = (
            now["fps"]
            * {"fast": value, "temporal": (value * now["frames"]) ** 0.5}.get(axis, now["frames"])
            / now["frames"]
        )
        return {**now, field: value, "fps": round(rate, 4)}

    def candidates(now, axis):
        field, values = AXES[axis]
        return [changed(now, axis, value) for value in values(now[field])]

    now = vars(start).copy()
    walk, before, best = [("start", now)], now, ""
    while cost(now) < 0.98 * target:
        tried = {}
        for axis in AXES:
            field = AXES[axis][0]
            ranked = sorted(
                candidates(now, axis), key=lambda c: (abs(cost(c) - 2 * cost(now)), -c[field])
            )
            tried[axis] = ranked[0]
        best = max(AXES, key=lambda a: (objective(Factors(**tried[a])), -cost(tried[a])))
        before, now = now, tried[best]
        walk.append((best, now))
    if cost(now) > 1.02 * target:
        now = [before, *(c for c in candidates(before, best) if cost(c) <= 1.02 * target)][-1]
        walk.append(("contraction", now))
    return [(move, Factors(**sizes)) for move, sizes in walk]


OBJECTIVES = {
    "frames and pixels": lambda f: f.frames**0.5 * f.crop,
    "balance": lambda f: -abs(f.crop - 40 * f.depth) - abs(f.frames - f.width) - f.bottleneck,
    "long clips": lambda f: f.frames / f.fps + f.bottleneck + f.width,
    "no difference": lambda f: 0.0,
    "any": lambda f: (f.frames * 37 + f.crop * 11 + f.depth * 530 + f.width * 170) % 101,
}


@pytest.mark.parametrize("target", [1.1e8, 3e8])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_walk_is_brute_forces(name, target, monkeypatch):
    monkeypatch.setattr(
        expansion, "summarize", lambda *_, **__: SimpleNamespace(macs=0, parameters=0)
    )
    start = Factors(crop=72, width=1.5, fps=2.0)
    steps = list(expand(start, target, OBJECTIVES[name]))
    assert [(s.move, s.factors) for s in steps] == brute(start, target, OBJECTIVES[name])
    for step in steps:
        assert step.value == OBJECTIVES[name](step.factors)
        assert len(step.tried) == (0 if step.move in ("start", "contraction") else 6)


@pytest.mark.full
def test_an_objective_that_likes_the_papers_networks_finds_them(paper, monkeypatch):
    """Expansion to X3D-S, with its frames; every candidate has the size in the paper."""
    monkeypatch.setattr(
        expansion, "summarize", lambda *_, **__: SimpleNamespace(macs=0, parameters=0)
    )
    wanted = [s.factors for s in paper[:8]]
    steps = list(expand(Factors(), 2e9, lambda f: float(any(close(f, w) for w in wanted))))
    assert [s.move for s in steps] == [s.move for s in paper[:9]]
    assert all(close(s.factors, w) for s, w in zip(steps[:-1], wanted, strict=True))
    assert (steps[-1].factors.frames, steps[-1].factors.crop) == (13, 160)


def close(a, b):
    """Returns True if factors are equal except for rounding of the frame rate."""
    return all(
        x == pytest.approx(y, rel=1e-3)
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.full
def test_larger_steps_of_the_paper(paper):
    """M to XL: each step is the value nearest to doubling the previous network."""
    for before, after in itertools.pairwise(paper[9:]):
        assert grow(before.factors, after.move, 2 * before.macs) == after.factors


def test_budgets():
    with pytest.raises(ConfigError, match=r"target=2e\+07: the start already has 2.06623e\+07"):
        list(expand(Factors(), 2e7, lambda f: 0.0))
    with pytest.raises(ConfigError, match="the objective is nan for 1 x 112"):
        list(expand(Factors(), 2e9, lambda f: float("nan")))
    assert contract(Factors(), "fast", complexity(Factors())) == Factors()
    (only, one) = expand(Factors(), 1e9, lambda f: f.crop, steps=1)
    assert (only.move, one.move) == ("start", "spatial")
    assert [s.move for s in expand(Factors(), 20.7e6, lambda f: 0.0)] == ["start"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("2GMAC", 2e9), ("600MMAC", 6e8), ("2e9", 2e9), ("0.6 gmacs", 6e8), ("5000000", 5e6)],
)
def test_numbers_of_macs(text, number):
    assert parse_macs(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "2GB", "-2GMAC", "GMAC", "0", "nan", "2 G MAC", "1e999"])
def test_wrong_numbers_of_macs(text):
    with pytest.raises(ConfigError, match=f"target='{text}': must be a number of multiply-adds"):
        parse_macs(text)


@pytest.mark.parametrize("name", ["x4d", "slow_r50"])
def test_wrong_starts(name):
    with pytest.raises(ConfigError, match=f"start='{name}': allowed are x2d, x3d_xs"):
        start_factors(name)


# --- Objectives -------------------------------------------------------------------------------


def test_a_command_as_objective():
    program = (
        "import json, sys; given = json.loads(sys.argv[1]); "
        "print('it is', given['model']['depth'] + given['preprocessing']['frames'])"
    )
    objective = command_objective(f'{sys.executable} -c "{program}" {{model_json}}')
    assert objective(Factors(frames=3, depth=2.2)) == pytest.approx(5.2)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("motoin", "objective='motoin': must be motion, published, or a command with {model_json}"),
        ("/gone {model_json}", "objective '/gone' failed"),
        ("false {model_json}", "objective 'false' failed .*exit status 1"),
        ("echo much {model_json}", "objective 'echo' printed no number"),
        ("true {model_json}", "objective 'true' printed no number"),
        ("echo ' {model_json}", "objective=.*No closing quotation"),
    ],
)
def test_commands_that_fail(command, text):
    with pytest.raises(ConfigError, match=text):
        command_objective(command)(Factors())


def test_what_was_tried_is_remembered(tmp_path):
    asked = []

    def objective(factors):
        asked.append(factors)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return factors.fps / 3

    file, grown = tmp_path / "new" / "evaluations.json", [Factors(), Factors(2, 1.7678)]
    first = remembered(objective, file, "mine")
    values = [first(f) for f in (*grown, *grown)]
    assert asked == grown
    with pytest.raises(KeyboardInterrupt):
        first(Factors(3))
    second = remembered(objective, file, "mine")
    assert [second(f) for f in grown] == values[:2] == [1.25 / 3, 1.7678 / 3]
    assert len(asked) == 3
    with pytest.raises(ConfigError, match="the objective 'mine', not 'yours'"):
        remembered(objective, file, "yours")
    file.write_text("{}")
    with pytest.raises(CheckpointError, match=r"evaluations\.json is corrupt"):
        remembered(objective, file, "mine")


def test_accuracy_on_the_motion_task(tmp_path, monkeypatch):
    """The run has the candidate's network and a scaled clip; its weights are deleted."""
    configs = []

    def train(config, run):
        configs.append(read_config(json.loads(json.dumps(config))))
        (run / "checkpoints").mkdir(parents=True)
        return {"top1": 0.5}

    monkeypatch.setattr(objectives, "train", train)
    objective = motion_objective(tmp_path, base_crop=40, base_fps=4.0, epochs=3.0, val_videos=8)
    assert objective(Factors(2, 2.5, 140, 1.0, 1.5, 0.2)) == 0.5
    (config,) = configs
    clip = config.preprocessing
    assert (clip.frames, clip.stride, clip.fps, clip.crop, clip.size) == (2, 1, 8.0, 50, 57)
    model = create_model(**config.model)
    assert (model.widen, model.bottleneck, model.depth) == (1.0, 1.5, 0.2)
    assert (config.epochs, config.data.train_videos, config.data.val_videos) == (3.0, 1200, 8)
    assert not config.augment.flip
    (run,) = tmp_path.iterdir()
    assert not list(run.iterdir())


# --- The command ------------------------------------------------------------------------------


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["expand", *arguments])
    with console():
        return options.run(options)


def test_command_prints_the_walk_and_goes_on(tmp_path, capsys):
    """The objective counts its calls in a file; a resumed command does not repeat them."""
    calls = tmp_path / "calls"
    program = (
        f"import sys, json; open('{calls}', 'a').write('x'); "
        "print(json.loads(sys.argv[1])['preprocessing']['crop'])"
    )
    arguments = (
        "--objective",
        f'{sys.executable} -c "{program}" {{model_json}}',
        "--out",
        str(tmp_path / "out"),
    )
    assert run("--target", "39MMAC", *arguments) == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert lines[1][0] == "start"
    assert lines[2][:4] == ["spatial", "1", "x", "160^2"]
    assert lines[2][-3:] == ["38.9", "1,633,512", "160"]
    steps = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert [s["move"] for s in steps] == ["start", "spatial"]
    assert steps[1]["factors"]["crop"] == 160
    assert len(calls.read_text()) == 7
    assert "candidate 7: " in printed.err
    assert run("--target", "39MMAC", *arguments) == 0
    assert len(calls.read_text()) == 7


@pytest.mark.full
def test_command_prints_the_papers_steps(paper, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(expansion, "published", lambda: iter(paper))
    assert run("--objective", "published", "--out", str(tmp_path)) == 0
    out = capsys.readouterr().out
    for name, frames, crop, macs, _ in PAPER:
        assert any(
            f"{frames} x {crop}^2" in line and f"{macs:.1f}" in line.split() and name in line
            for line in out.splitlines()
        )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--target is missing"),
        (("--target", "much"), "target='much'"),
        (("--target", "2GMAC", "--steps", "0"), "--steps=0: must be at least 1"),
        (("--target", "2GMAC", "--start", "c3d"), "start='c3d': allowed are"),
        (("--target", "2GMAC", "--objective", "published"), "omit --target"),
        (("--target", "2GMAC", "--base-crop", "4"), "base_crop=4"),
        (("--target", "2MMAC", "--objective", "echo 1 {model_json}"), "has 20662304|2.06623e"),
    ],
)
def test_command_is_used_wrongly(tmp_path, arguments, text):
    with pytest.raises(JaxvideoError, match=text):
        run(*arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
