"""Commands that need no run: videos in every form, flow, fusion, Frechet distance."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxvideo import cli, create_model
from jaxvideo.data import stored_flow
from jaxvideo.data.decode import read_frames
from jaxvideo.data.video import find_videos, open_video
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.types import DataError, Preprocessing, VideoError
from tests.conftest import write_video
from tests.models.test_backbones2d import random_variables

PRE = Preprocessing(frames=4, size=40, crop=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A directory with a video, an animation, a frame directory, stored flow and other files."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "b.mp4", frames=12)
    with open_video(folder / "b.mp4") as video:
        frames = read_frames(video, 0, 12, video.height, video.width)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(folder / "a.gif", save_all=True, append_images=pictures[1:], duration=40)
    (folder / "deep" / "frames").mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / "deep" / "frames" / f"frame_{number}.png"), frame[..., ::-1])
    (folder / "notes.txt").write_text("no video")
    (folder / "b.flow.mkv").write_bytes(b"")
    (folder / "empty").mkdir()
    return folder, frames


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    arguments = {"name": "f_r2d_10", "width": 1 / 16, "num_classes": 3}
    variables = random_variables(create_model(**arguments), PRE.shape)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, Weights(variables, arguments, PRE, ("x", "y", "z"), {"source": "test"}))
    return str(path)


def test_what_is_a_video(videos):
    folder, _ = videos
    found = [str(folder / name) for name in ("a.gif", "b.mp4", "deep/frames")]
    assert find_videos([folder]) == found
    assert find_videos([folder / "deep" / "frames", folder / "notes.txt"]) == [
        found[2],
        str(folder / "notes.txt"),
    ]
    with pytest.raises(DataError, match=r"empty: contains no video \(\.mp4"):
        find_videos([folder / "empty"])
    with pytest.raises(DataError, match="gone: no such file or folder"):
        find_videos([folder / "gone"])


def test_frames_in_a_folder_are_a_video(videos):
    """Frames are ordered by number (2 before 10) and equal the pictures exactly."""
    folder, frames = videos
    with open_video(folder / "deep" / "frames") as video:
        assert (video.num_frames, video.fps) == (12, 0.0)
        np.testing.assert_array_equal(read_frames(video, 1, 12, *frames.shape[1:3]), frames[1:])


def test_frames_that_are_none(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"not a picture")
    with pytest.raises(VideoError, match=r"0\.jpg: cannot be read as an image"):
        open_video(tmp_path).__enter__()
    cv2.imwrite(str(tmp_path / "0.jpg"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((8, 9, 3), np.uint8))
    with open_video(tmp_path) as video, pytest.raises(VideoError, match="9 x 8, but the first"):
        read_frames(video, 0, 2, 8, 8)


def test_predictions_as_json_lines(videos, weights, capsys):
    folder, _ = videos
    broken = folder / "notes.txt"
    assert cli.main(["predict", str(folder), str(broken), "--checkpoint", weights, "--json"]) == 1
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert [r["video"].removeprefix(str(folder)) for r in records] == [
        "/a.gif",
        "/b.mp4",
        "/deep/frames",
        "/notes.txt",
    ]
    assert "cannot be opened as a video" in records.pop()["error"]
    assert {entry["class"] for entry in records[0]["top"]} == {"x", "y", "z"}
    assert sum(entry["probability"] for entry in records[0]["top"]) == pytest.approx(1)
    assert "10 clips x center crop" in records[0]["protocol"]
    assert "notes.txt: cannot be opened as a video" in printed.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "pass --checkpoint RUN, or --model NAME, whose best published weights"),
        (["--checkpoint", "r", "--weights", "w"], "--checkpoint and --weights are mutually excl"),
        (["--weights", "w.pt"], "--weights=w.pt needs --model NAME"),
    ],
)
def test_predict_wants_weights(videos, arguments, text, capsys):
    assert cli.main(["predict", str(videos[0]), *arguments]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("method", ["dis", "tvl1", "warped_farneback"])
def test_flow_is_stored_beside_the_video(tmp_path, method, capsys):
    path = write_video(tmp_path / "v.mp4", frames=4)
    assert cli.main(["flow", str(tmp_path), "--method", method, "--size", "32"]) == 0
    with (
        stored_flow.open_flow(stored_flow.flow_path(path)) as (stored, info),
        open_video(path) as video,
    ):
        assert (info.method, info.height, info.width) == (method, video.height, video.width)
        assert stored.num_frames == 3
        assert min(stored.height // 2, stored.width) == 32
    assert cli.main(["flow", str(path), "--method", method, "--size", "32"]) == 0
    assert "0 written, 1 skipped" in capsys.readouterr().out
    assert cli.main(["flow", str(path), "--method", method]) == 1
    assert "stored at short side 256. Pass --overwrite" in capsys.readouterr().err
    assert cli.main(["flow", str(path), "--method", "brox"]) == 2
    assert "flow method 'brox': allowed are tvl1" in capsys.readouterr().err


def test_frechet_distance_of_folders(tmp_path, weights, capsys):
    """The distance of a directory to itself is 0; other tests cover the computation."""
    # Each frame is brighter than the previous one, so longer videos have brighter middles.
    for folder, first in (("one", 16), ("other", 24)):
        (tmp_path / folder).mkdir()
        for k in range(3):
            write_video(tmp_path / folder / f"{k}.mp4", frames=first + 2 * k)
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    distances = []
    for pair in ([one, one], [one, other]):
        assert cli.main(["fvd", *pair, "--checkpoint", weights, "--endpoint", "pool"]) == 0
        printed = capsys.readouterr()
        distances.append(float(printed.out.split()[3]))
        assert "pool [32], of 3 and 3 videos; the middle 16 frames" in printed.out
        assert "covariance of full rank" in printed.err
    assert distances[1] > 1e-3
    assert distances[0] == pytest.approx(0, abs=1e-3 * distances[1])
    assert cli.main(["fvd", one, one, "--checkpoint", weights, "--endpoint", "x"]) == 2
    assert "Allowed are conv1, " in capsys.readouterr().err


def test_fusion_of_runs(tmp_path, capsys):
    labels, classes = np.array([0, 1, 1]), np.array(["a", "b"])
    for run, right in (("rgb", [0.9, 0.4, 0.4]), ("flow", [0.4, 0.9, 0.9])):
        (tmp_path / run).mkdir()
        own = np.array(right)[:, None]
        scores = np.where(np.arange(2) == labels[:, None], own, 1 - own)
        np.savez(tmp_path / run / "scores.npz", scores=scores, labels=labels, classes=classes)
    runs = [str(tmp_path / "rgb"), str(tmp_path / "flow")]
    assert cli.main(["fuse", *runs]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:]] == ["33.33", "66.67", "100.00"]
    (tmp_path / "rgb" / "result.json").write_text(json.dumps({"protocol": "10 clips"}))
    assert cli.main(["fuse", *runs, "--weights", "1", "1.5"]) == 0  # U19
    heads, first, second, _ = capsys.readouterr().out.splitlines()
    assert heads.split() == ["top-1", "weight", "run", "protocol"]
    assert first.split() == ["33.33", "%", "1", runs[0], "10", "clips"]
    assert second.split() == ["66.67", "%", "1.5", runs[1], "-"]
    assert cli.main(["fuse", *runs, "--weights", "1", "1.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["weight"] for row in found["runs"]] == [1, 1.5]
    assert [row["protocol"] for row in found["runs"]] == ["10 clips", None]
    assert found["fused"]["top1"]["value"] == 1
    assert cli.main(["fuse", *runs, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1.0,,fused (scores),"
    assert cli.main(["fuse", *runs, "--weights", "1"]) == 1
    assert "one for each of 2" in capsys.readouterr().err
    assert cli.main(["fuse", runs[0], str(tmp_path)]) == 1
    assert "is neither the directory of a finished run" in capsys.readouterr().err
    np.savez(
        tmp_path / "flow" / "scores.npz", scores=scores[:2], labels=labels[:2], classes=classes
    )
    assert cli.main(["fuse", *runs]) == 1
    assert "were tested on different labels" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error(repository):
    """A closed stdout is no error, as in `python -m jaxvideo models | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jaxvideo", "models"]
    done = subprocess.run(command, cwd=repository, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr.decode()) == (1, "")


def test_models_by_pattern(capsys):
    assert cli.main(["models", "*slowfast*", "--weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "params", "GMACs", "clip", "paper", "tags", "libraries"]
    assert lines[1].startswith("slowfast_4x16_r50 ")
    assert cli.main(["models", "x3d_m", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["x3d_m"]
    assert row["clip"] == [16, 224, 224, 3]
    assert row["endpoints"][-2:] == ["pre_logits", "logits"]
    assert {"k400_pytorchvideo", "k400_pyslowfast"} <= set(row["tags"])
    assert cli.main(["models", "slwo*"]) == 2
    assert "no network matches 'slwo*'" in capsys.readouterr().err
