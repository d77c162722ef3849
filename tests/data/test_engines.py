"""Functions mapped over items: by this process, threads, processes, and what is refused."""

import functools
import os
import sys
import time

import pytest

from jaxvideo import cli
from jaxvideo.data import beam
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.engines import ENGINES, Engine, map_here, map_items
from jaxvideo.data.packed.read import load_foreign
from jaxvideo.types import ConfigError, UsageError, VideoError


def square(number, bad=None, wait=0.0):
    """The first number takes longest, so that others are finished before it."""
    time.sleep(wait * (number == 0))
    if number == bad:
        raise VideoError(f"{number} is bad")
    return number * number


def square_in(number):
    """For Beam's workers, which can import this module by its full name."""
    time.sleep(0.05)
    return number * number, os.getpid()


def test_the_same_results_in_any_way():
    expected = [(i, i * i) for i in range(30)]
    assert list(map_items(square, range(30))) == expected
    slow = functools.partial(square, wait=0.2)
    found = list(map_items(slow, range(30), Engine(workers=3), threads=True))
    assert found[0] != (0, 0)
    assert sorted(found) == expected
    assert list(map_here(slow, range(30), 3, threads=True, ordered=True)) == expected


def test_an_error_ends_the_processes():
    """The test of packed shards covers their results."""
    with pytest.raises(VideoError, match="7 is bad"):
        list(map_items(functools.partial(square, bad=7), range(100), Engine(workers=1)))


def test_few_items_are_submitted_at_a_time():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_here(square, items(), 2, threads=True, ordered=True)
    assert next(results) == (0, 0)
    results.close()
    assert len(taken) < 20


def test_engines_refuse(monkeypatch):
    assert list(ENGINES) == ["processes", "beam"]
    with pytest.raises(UsageError, match=r"engine='bean': allowed are processes, beam\. Did you"):
        Engine("bean")
    with pytest.raises(UsageError, match="workers=-1: must be at least 0"):
        Engine(workers=-1)
    with pytest.raises(UsageError, match="--runner=DirectRunner need the engine beam"):
        Engine(options=("--runner=DirectRunner",))
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as if not installed
    monkeypatch.setitem(sys.modules, "apache_beam.options", None)
    with pytest.raises(ConfigError, match=r"needs the package apache-beam.*jaxvideo\[beam\]"):
        Engine("beam")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "spark"], "engine='spark': allowed are processes, beam"),
        (["--beam-options=--x"], "--beam-options needs --engine beam"),
        (["--workers", "2", "--engine", "beam"], "--workers and --engine beam are mutually"),
        (["--engine", "beam"], "videos: with --engine beam all paths must be absolute"),
    ],
)
def test_options_of_commands(arguments, problem, capsys):
    for command in (["flow", "videos"], ["pack", "videos", "/out"]):
        assert cli.main([*command, *arguments]) == 2
        assert problem in capsys.readouterr().err
    assert (
        cli.main(["doctor", "videos", *[a.replace("workers", "threads") for a in arguments]]) == 2
    )
    assert problem.replace("workers", "threads") in capsys.readouterr().err


def test_a_part_of_a_data_set(video):
    whole = VideoDataset(("a", str(video), "b"), (0, 1, 2), ("x", "y", "z"), declared=(1, 30, 2))
    part = whole.part(range(1, 3))
    assert (part.paths, part.labels, part.declared) == ((str(video), "b"), (1, 2), (30, 2))
    with part.open(0) as file:
        assert file.num_frames == 30
    content = video.read_bytes()
    records = load_foreign([{"video": b"", "label": 0}, {"video": content, "label": 1}])
    part = records.part(range(1, 2))
    assert part.labels == (1,)
    with part.open(0) as file:
        assert (file.path, file.num_frames) == ("record 1", 30)


def test_a_block_of_a_call_that_has_ended_is_skipped(tmp_path):
    block = beam._Block(square, str(tmp_path / "gone"))
    block(0)
    assert not (tmp_path / "gone").exists()
