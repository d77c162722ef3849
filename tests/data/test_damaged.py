"""Hundreds of damaged files: no crash, hang or leak; each is reported; training continues."""

import collections
import json
import subprocess
import sys

import pytest

# Slow: the process reads hundreds of files.
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The output of `broken_videos`, run in a process of its own."""
    folder = tmp_path_factory.mktemp("damaged")
    process = subprocess.run(
        [sys.executable, "-m", "tests.data.broken_videos", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
    )
    names = [line for line in process.stderr.splitlines() if (folder / line).is_file()]
    last = names[-1] if names else "making the files"
    assert process.returncode == 0, f"ended at {last}:\n{process.stderr[-2000:]}"
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def pairs(outcome):
    """(case, record) of every file."""
    return list(zip(outcome["cases"], outcome["records"], strict=True))


def test_of_every_kind_there_are_many(pairs):
    fates = collections.Counter(case["fate"] for case, _ in pairs)
    assert fates["lost"] + fates["damaged"] > 400
    assert fates["intact"] > 20
    cut = [case["name"] for case, _ in pairs if "_cut" in case["name"]]
    assert len(cut) > 200
    assert {name.split("_")[0] for name in cut} >= {"front", "end", "parts", "xvid", "film", "web"}


def test_odd_but_whole_videos_are_ok(pairs):
    for case, record in pairs:
        if case["fate"] == "intact":
            found = record["status"], record["reason"], record["frames"]
            assert found == ("ok", "", case["frames"]), case


def test_lost_frames_are_told(pairs):
    for case, record in pairs:
        assert record["status"] in ("ok", "suspicious", "broken")
        assert bool(record["reason"]) == (record["status"] != "ok"), case
        if case["fate"] == "lost":
            assert record["status"] != "ok", case


def test_what_is_called_ok_has_all_its_frames(pairs, outcome):
    """OpenCV counts the same number of frames."""
    checked = 0
    for case, record in pairs:
        if record["status"] == "ok" and case["fate"] != "unusual":
            assert outcome["opencv"][case["name"]] == record["frames"], case
            if case["fate"] != "shorter":
                assert record["frames"] == case["frames"], case
            checked += case["fate"] == "damaged"
    assert checked > 20


def test_unusual_files_are_broken_only_if_ffmpeg_does_not_play_them(pairs, outcome):
    """Files that FFmpeg decodes without any damage are not broken, and have the same frames."""
    whole = 0
    for case, record in pairs:
        if case["fate"] == "unusual" and (frames := outcome["played"][case["name"]]) is not None:
            assert record["status"] != "broken", (case, record["reason"])
            assert record["frames"] == record["packets"] == frames, case
            whole += 1
    assert whole > 60
    assert len(outcome["played"]) > 200


def test_memory_and_descriptors_stay(outcome):
    """A header with 2^24 frames could allocate a gigabyte, as could frames of 16000 x 16000."""
    first, *_, last = outcome["used"][1:]
    assert last[0] - first[0] < 4
    assert last[1] == first[1]
    assert outcome["peak"] - first[0] < 64


def test_threads_find_the_same(outcome):
    assert outcome["threads"] == outcome["records"]


def test_a_stream_over_all_of_them_delivers_or_names_each(outcome, pairs):
    one, other = outcome["streams"]
    assert one == other
    states = {record["path"]: record["status"] for _, record in pairs}
    names = [path.rpartition("/")[2] for path, *_ in one]
    assert sorted(names) == sorted(states)
    for name, (path, weight, error, _) in zip(names, one, strict=True):
        assert (weight, bool(error)) in ((1.0, False), (0.0, True)), name
        assert error.startswith(path) or not error
        if states[name] != "broken":
            assert weight == 1.0, error
    assert sum(weight == 0 for _, weight, *_ in one) > 200


def test_without_the_quarantine_list_nothing_fails(outcome, pairs):
    healthy = {record["path"] for _, record in pairs if record["status"] != "broken"}
    assert sorted(path.rpartition("/")[2] for path, *_ in outcome["healthy"]) == sorted(healthy)
    assert all(weight == 1 and not error for _, weight, error, _ in outcome["healthy"])
