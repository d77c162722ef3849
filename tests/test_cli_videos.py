"""Output of `predict`, `fvd` and `flow`: every video is accounted for, whatever its name."""

import csv
import io
import json
import os
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from jaxvideo import cli, create_model
from jaxvideo.data import stored_flow
from jaxvideo.data.decode import read_frames
from jaxvideo.data.video import open_video, read_image
from jaxvideo.inference.flow import FlowRequest, store_flow
from jaxvideo.network import load
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.training.step import init_variables
from jaxvideo.types import Preprocessing
from tests.conftest import write_video

PRE = Preprocessing(frames=4, size=40, crop=32)
CLASSES = tuple(f"class, {name!r}" for name in "abcdefghijkl")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights with 12 classes, whose names need quotes in CSV."""
    arguments = {"name": "f_r2d_10", "width": 1 / 16, "num_classes": len(CLASSES)}
    shapes = jax.eval_shape(lambda: init_variables(create_model(**arguments), PRE, 0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), shapes
    )
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, Weights(variables, arguments, PRE, CLASSES, {"source": "test"}))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 frames; 3 frames, less than a clip; a broken file. Names are not text or break lines."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "long.mp4", frames=30)
    write_video(folder / "x.mp4", frames=3).rename(folder / "two\nlines.mp4")
    latin = os.fsdecode(b"\xe9t\xe9.mp4")  # not UTF-8
    (folder / latin).write_bytes(b"no video")
    return folder


NAMES = ["long.mp4", "two\nlines.mp4", os.fsdecode(b"\xe9t\xe9.mp4")]
ESCAPED = ["long.mp4", r"two\nlines.mp4", r"\xe9t\xe9.mp4"]


def predict(capsys, *arguments):
    status = cli.main(["predict", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


# --- predict --------------------------------------------------------------------------------


def test_text_with_indices_and_a_last_line(folder, weights, capsys):
    status, out, err = predict(capsys, folder, "--checkpoint", weights, "--top", 2)
    assert status == 1
    protocol, *lines, last = out.splitlines()
    assert protocol.startswith("f_r2d_10: 10 clips x center crop")
    net = load(weights)
    place = 0
    for name, escaped in zip(NAMES[:2], ESCAPED[:2], strict=True):
        assert lines[place] == f"{folder}/{escaped}"
        for line, (title, share) in zip(
            lines[place + 1 : place + 3], net.predict(folder / name).top(2), strict=True
        ):
            assert line == f"  {100 * share:5.1f} %  {CLASSES.index(title):>2}  {title}"
        place += 3
    assert len(lines) == place
    assert last.startswith("3 videos, 1 failed, ")
    assert last.endswith(" s per video")
    assert "cannot be opened as a video" in err


def test_json_lines_contain_failures_and_clips(folder, weights, capsys):
    status, out, err = predict(
        capsys, folder, "--checkpoint", weights, "--json", "--timeline", "--clips", 4
    )
    assert status == 1
    long, short, broken = (json.loads(line) for line in out.splitlines())
    assert [one["video"] for one in (long, short, broken)] == [f"{folder}/{n}" for n in NAMES]
    assert "cannot be opened as a video" in broken["error"]
    assert broken.keys() == {"video", "error", "model", "protocol"}
    for entry in long["top"]:
        assert CLASSES[entry["index"]] == entry["class"]
    # 30 frames, clips of 4: starts 0, 8, 17, 26, at 25 frames per second.
    spans = [(clip["first_frame"], clip["last_frame"]) for clip in long["clips"]]
    assert spans == [(0, 3), (8, 11), (17, 20), (26, 29)]
    assert [clip["start"] for clip in long["clips"]] == pytest.approx([0, 0.32, 0.68, 1.04])
    assert [clip["end"] for clip in long["clips"]] == pytest.approx([0.16, 0.48, 0.84, 1.2])
    # Four equal clips of the short video are one row.
    (clip,) = short["clips"]
    assert (clip["first_frame"], clip["last_frame"]) == (0, 2)
    assert clip["top"] == short["top"]
    found = load(weights).predict(folder / "long.mp4", clips=4)
    mean = np.mean([clip.scores for clip in found.clips], 0)
    np.testing.assert_allclose(mean, found.probabilities, rtol=1e-5)
    assert "3 videos, 1 failed" in err


def test_csv(folder, weights, capsys):
    status, out, _ = predict(capsys, folder, "--checkpoint", weights, "--csv", "--top", 3)
    assert status == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["video"] for row in rows] == [
        f"{folder}/{ESCAPED[i]}" for i in (0, 0, 0, 1, 1, 1, 2)
    ]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2 + [""]
    best = load(weights).predict(folder / "long.mp4").top(3)
    for row, (title, share) in zip(rows, best, strict=False):
        assert row["class"] == title == CLASSES[int(row["index"])]
        assert float(row["probability"]) == pytest.approx(share, rel=1e-5)
        assert row["error"] == ""
    assert "cannot be opened" in rows[-1]["error"]
    timeline = ["--csv", "--top", 1, "--timeline", "--clips", 2]
    _, out, _ = predict(capsys, folder / "long.mp4", "--checkpoint", weights, *timeline)
    whole, first, second = csv.DictReader(io.StringIO(out))
    assert (whole["start"], first["start"], second["end"]) == ("", "0.0", "1.2")
    assert (second["first_frame"], second["last_frame"]) == ("26", "29")


def test_timeline_as_text(folder, weights, capsys, tmp_path):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 40, 3), 40 * number, np.uint8))
    timeline = ["--checkpoint", weights, "--timeline", "--top", 1, "--clips", 2]
    status, out, _ = predict(capsys, folder / "long.mp4", tmp_path, *timeline)
    assert status == 0
    lines = out.splitlines()
    assert lines[3].startswith("      0.00 -     0.16 s  ")
    assert lines[4].startswith("      1.04 -     1.20 s  ")
    assert lines[7].startswith("  frames     0 -     3  ")  # pictures have no times
    assert lines[9].startswith("2 videos, 0 failed, ")


def test_wrong_numbers_are_named(folder, weights, capsys):
    status, _, err = predict(capsys, folder, "--checkpoint", weights, "--top", 0)
    assert status == 2
    assert "--top=0: must be at least 1" in err
    assert cli.main(["fvd", str(folder), str(folder), "--frames", "0"]) == 2
    assert "--frames=0: must be at least 1" in capsys.readouterr().err


def test_json_and_csv_exclude_each_other(folder, weights, capsys):
    with pytest.raises(SystemExit) as stop:
        predict(capsys, folder, "--checkpoint", weights, "--json", "--csv")
    assert stop.value.code == 2


# --- fvd ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two directories: four good videos each; one also has short, cut and broken ones."""
    root = tmp_path_factory.mktemp("fvd")
    for name in ("real", "made"):
        (root / name).mkdir()
        for k in range(4):
            write_video(root / name / f"{k}.mp4", frames=8 + k + 4 * (name == "made"))
    write_video(root / "made" / "short.mp4", frames=7)
    write_video(root / "made" / "single.mp4", frames=1)
    (root / "made" / "broken.mp4").write_bytes(b"no video")
    return root


def fvd(capsys, *arguments):
    status = cli.main(["fvd", *map(str, arguments), "--endpoint", "pool", "--frames", "8"])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_fvd_names_what_it_leaves_out(sets, weights, capsys):
    pair = [sets / "real", sets / "made", "--checkpoint", weights]
    status, out, err = fvd(capsys, *pair)
    assert status == 0
    assert "pool [32], of 4 and 4 videos; the middle 8 frames" in out
    assert "left out: 2 short, 1 unreadable" in out
    for text in (
        "short.mp4: has 7 frames, fewer than 8",
        "single.mp4: has 1 frame, fewer than 8",
        "broken.mp4: cannot be opened",
    ):
        assert f"left out: {sets / 'made'}/{text}" in err
    _, out, _ = fvd(capsys, *pair, "--csv")
    heads, row = csv.reader(out.splitlines())
    in_csv = dict(zip(heads, row, strict=True))
    status, out, _ = fvd(capsys, *pair, "--json")
    assert float(in_csv["distance"]) == json.loads(out)["distance"]
    assert int(in_csv["left_out"]) == len(json.loads(out)["left_out"])
    result = json.loads(out)
    assert (result["videos"], result["frames"], result["features"]) == ([4, 4], 8, 32)
    names = [Path(one["video"]).name for one in result["left_out"]]
    assert names == ["broken.mp4", "short.mp4", "single.mp4"]
    # The same distance without the files that are left out.
    clean = sets / "clean"
    clean.mkdir(exist_ok=True)
    for k in range(4):
        (clean / f"{k}.mp4").write_bytes((sets / "made" / f"{k}.mp4").read_bytes())
    _, out, _ = fvd(capsys, sets / "real", clean, "--checkpoint", weights, "--json", "--strict")
    assert json.loads(out)["distance"] == pytest.approx(result["distance"], rel=1e-6)
    assert json.loads(out)["left_out"] == []


def test_fvd_opens_all_files_before_it_computes(sets, weights, capsys, monkeypatch, tmp_path):
    from jaxvideo.inference import features
    from jaxvideo.inference import fvd as module
    from jaxvideo.types import VideoError

    order, opening, make = [], module.open_video, features.make_extractor

    def counted(path):
        order.append("open")
        return opening(path)

    def breaking(*arguments):
        extract = make(*arguments)

        def one(path):
            order.append("compute")
            if path.endswith("made/2.mp4"):
                raise VideoError(f"{path}: frame 6 cannot be decoded")
            return extract(path)

        return one

    monkeypatch.setattr(module, "open_video", counted)
    monkeypatch.setattr(features, "make_extractor", breaking)
    pair = [sets / "real", sets / "made", "--checkpoint", weights]
    # A file that is damaged further on costs nothing that was computed.
    status, out, err = fvd(capsys, *pair)
    assert status == 0
    assert "of 4 and 3 videos" in out
    assert "left out: 2 short, 2 unreadable" in out
    assert "frame 6 cannot be decoded" in err
    assert order == [*["open"] * 11, *["compute"] * 8]
    order.clear()
    status, out, err = fvd(capsys, *pair, "--strict")
    assert (status, out, "compute" in order) == (1, "", False)
    assert "--strict: " in err
    assert "broken.mp4: cannot be opened" in err
    assert "and 2 other videos" in err
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", frames=5 + number)
    status, _, err = fvd(capsys, sets / "real", tmp_path, "--checkpoint", weights)
    assert (status, "compute" in order) == (1, False)
    assert (
        f"{tmp_path}: 0 of 3 videos can be used, and a covariance needs at least 2; 3 have fewer "
        "than 8 frames, the longest of them 7. --frames sets the length of a clip"
    ) in err


# --- flow -----------------------------------------------------------------------------------


def stored(path):
    return stored_flow.stored_info(stored_flow.flow_path(path))


def run_flow(capsys, *arguments):
    status = cli.main(["flow", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_flow_of_two_methods_is_never_mixed(tmp_path, capsys):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", frames=3)
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert run_flow(capsys, first, "--method", "dis", "--size", 32)[0] == 0
    before = stored_flow.flow_path(first).read_bytes()
    status, _, err = run_flow(capsys, tmp_path, "--method", "farneback", "--size", 40)
    assert status == 1
    assert (
        f"1 of 2 videos have other flow, which must not be mixed. The first: {tmp_path}/a.flow.mkv "
        "has dis, stored at short side 32; requested: farneback, stored at short side 40. Pass "
        "--overwrite to replace it, or --out DIR to keep both"
    ) in err
    assert stored_flow.flow_path(first).read_bytes() == before
    assert not stored_flow.flow_path(second).exists()
    # The size alone differs, too; the frames are 48 pixels high, so 48 and 256 are the same.
    assert run_flow(capsys, first, "--method", "dis", "--size", 48)[0] == 1
    assert "1 skipped" in run_flow(capsys, first, "--method", "dis", "--size", 32)[1]
    out = tmp_path / "other"
    both = ["--method", "farneback", "--size", 256]
    assert "2 written, 0 skipped" in run_flow(capsys, tmp_path, *both, "--out", out)[1]
    assert stored_flow.stored_info(out / "b.flow.mkv").method == "farneback"
    assert stored(first).method == "dis"
    found = run_flow(capsys, first, second, *both, "--overwrite")
    assert "2 written (1 of other settings replaced), 0 skipped" in found[1]
    assert (stored(first).method, stored(first).size) == ("farneback", 256)
    assert "2 skipped" in run_flow(capsys, first, second, "--method", "farneback", "--size", 48)[1]
    stored_flow.flow_path(first).write_bytes(b"damaged")
    status, _, err = run_flow(capsys, first, *both)
    assert status == 1
    assert "a.flow.mkv: cannot be read as stored flow" in err


def test_stored_flow_is_part_of_the_protocol(tmp_path):
    from jaxvideo.evaluation.protocol import describe_protocol
    from jaxvideo.types import DataError, Protocol

    paths = [str(write_video(tmp_path / f"{name}.mp4", frames=3)) for name in "abc"]
    p = Preprocessing(
        frames=2, size=40, crop=32, modality="flow", flow="stored", mean=(0.0,) * 2, std=(1.0,) * 2
    )
    assert "2 frames of flow by stored, " in describe_protocol(Protocol(), p, paths)
    for path in paths[:2]:
        store_flow(path, FlowRequest("dis", 32))
    described = describe_protocol(Protocol(), p, paths)
    assert "2 frames of flow by dis, stored at short side 32, " in described
    store_flow(paths[2], FlowRequest("farneback", 32))
    mixed = r"different settings is mixed: .*a\.flow\.mkv has dis.*c\.flow\.mkv has farneback"
    with pytest.raises(DataError, match=mixed):
        describe_protocol(Protocol(), p, paths)


def made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_flow_as_pictures(tmp_path, capsys):
    path = write_video(made(tmp_path / "in" / "deep") / "v.mp4", frames=4)
    jpeg = [tmp_path / "in", "--method", "dis", "--format", "jpeg"]
    status, _, err = run_flow(capsys, *jpeg)
    assert status == 2
    assert "--format jpeg needs --out DIR" in err
    assert "1 written" in run_flow(capsys, *jpeg, "--out", tmp_path / "jpeg")[1]
    folder = tmp_path / "jpeg" / "deep" / "v"
    names = sorted(file.name for file in folder.iterdir())
    assert names == [
        "flow.json",
        *(f"flow_{axis}_{number:05}.jpg" for axis in "xy" for number in (1, 2, 3)),
    ]
    store_flow(str(path), FlowRequest("dis"))
    with open_video(stored_flow.flow_path(path)) as video:
        planes = read_frames(video, 0, 3, video.height, video.width)[..., 0]
    for number in range(3):
        for axis, expected in zip("xy", np.split(planes[number], 2), strict=True):
            picture = read_image(str(folder / f"flow_{axis}_{number + 1:05}.jpg"))[..., 0]
            assert np.abs(picture.astype(int) - expected).mean() < 2
    assert "0 written, 1 skipped" in run_flow(capsys, *jpeg, "--out", tmp_path / "jpeg")[1]
    status, _, err = run_flow(capsys, *jpeg[:1], "--format", "jpeg", "--out", tmp_path / "jpeg")
    assert status == 1
    assert "has dis, stored at short side 256; requested: tvl1" in err
    color = [tmp_path / "in", "--method", "dis", "--format", "png", "--out", tmp_path / "png"]
    assert run_flow(capsys, *color)[0] == 0
    assert len(list((tmp_path / "png" / "deep" / "v").glob("flow_*.png"))) == 3
    # Videos that differ only in their ending would share one file.
    write_video(tmp_path / "in" / "deep" / "v.mkv", frames=4)
    status, _, err = run_flow(capsys, tmp_path / "in", "--method", "dis")
    assert status == 1
    assert "v.mkv and" in err
    assert "would both be written to" in err


def test_flow_output_that_cannot_be_written(tmp_path, capsys):
    path = write_video(tmp_path / "v.mp4", frames=3)
    (tmp_path / "file").write_text("")
    for extra in ([], ["--format", "png"]):
        out = ["--out", tmp_path / "file", "--method", "dis", *extra]
        status, _, err = run_flow(capsys, path, *out)
        assert status == 1
        assert "file" in err
        assert "Traceback" not in err
    with pytest.raises(SystemExit):
        run_flow(capsys, path, "--size", "large")
