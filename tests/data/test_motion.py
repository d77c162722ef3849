import collections
import errno
import fcntl
import io
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from jaxvideo.data.motion import drawing, folder, photos, spec
from jaxvideo.data.motion.encoding import encode, find_codec
from jaxvideo.data.motion.folder import ensure_motion
from jaxvideo.data.motion.scene import render
from jaxvideo.types import DataError

REPOSITORY = Path(__file__).parents[2]
COUNTS = {"train": 80, "val": 40, "seed": 3}


def _contents(root):
    """Returns the content of every file of a set except the lock, by relative path."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != folder._LOCK)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _complete(root):
    """Returns the complete videos; a killed process may leave one under a temporary name."""
    return [path for path in root.rglob("*.mp4") if not path.name.startswith(folder._TEMPORARY)]


def _decode(content):
    with av.open(io.BytesIO(content)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def _spawn(root):
    arguments = ", ".join(f"{key}={value}" for key, value in COUNTS.items())
    code = (
        "from jaxvideo.data.motion.folder import ensure_motion\n"
        "from jaxvideo.progress import console\n"
        f"with console():\n    ensure_motion({str(root)!r}, {arguments})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set written without interruption, by one thread."""
    root = tmp_path_factory.mktemp("motion") / "whole"
    return ensure_motion(root, **COUNTS, threads=1)


# --- Files --------------------------------------------------------------------------------


def test_layout_and_balance(whole):
    classes = (whole / "classes.txt").read_text().split()
    assert tuple(classes) == spec.CLASSES
    for split in spec.SPLITS:
        lines = [line.split(" ") for line in (whole / f"{split}.csv").read_text().splitlines()]
        assert len(lines) == len({path for path, _ in lines}) == COUNTS[split]
        counted = collections.Counter(label for _, label in lines)
        assert counted == dict.fromkeys(classes, COUNTS[split] // 8)
        for number, (path, label) in enumerate(lines):
            assert path == f"{split}/{label}/{number:05d}.mp4"
            assert (whole / path).stat().st_size > 0
        for number, (_, label) in enumerate(lines[:16]):
            assert classes[render(COUNTS["seed"], split, number)[1]] == label
        assert len(list((whole / split).rglob("*.mp4"))) == COUNTS[split]


def test_same_bytes_for_any_number_of_threads(whole, tmp_path):
    again = ensure_motion(tmp_path / "a", **COUNTS, threads=2)
    assert _contents(again) == _contents(whole)


def test_a_set_of_another_size_shares_its_videos(whole, tmp_path):
    small = ensure_motion(tmp_path / "a", train=8, val=8, seed=3)
    for path in small.rglob("*.mp4"):
        assert path.read_bytes() == (whole / path.relative_to(small)).read_bytes()


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_decoded_file_is_close_to_the_render(codec):
    for number in range(8):
        frames, _ = render(0, "train", number)
        content = encode(frames, codec)
        assert content == encode(frames, codec)
        decoded = _decode(content)
        assert decoded.shape == frames.shape == (24, 84, 112, 3)
        error = np.mean((decoded.astype(np.float32) - frames) ** 2, axis=(1, 2, 3))
        assert 10 * np.log10(255**2 / error.max()) > 26  # H.264 removes part of the noise


def test_without_libx264_the_files_are_mpeg4(monkeypatch):
    codec = av.codec.Codec

    def only_mpeg4(name, mode):
        if name == "libx264":
            raise av.codec.codec.UnknownCodecError(name)
        return codec(name, mode)

    find_codec.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(av.codec, "Codec", only_mpeg4)
        assert find_codec() == "mpeg4"
    find_codec.cache_clear()


def test_the_written_stream(whole):
    with av.open(str(whole / "val/up/00002.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (112, 84, 25)
        assert stream.codec_context.name == "h264" or find_codec() != "libx264"
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 12]


# --- What the label depends on ------------------------------------------------------------


def test_validation_twins_are_time_reversed():
    for number in range(0, 16, 2):
        frames, label = render(0, "val", number)
        twin, other = render(0, "val", number + 1)
        assert np.array_equal(frames[::-1], twin)
        assert (label % 2, other) == (0, label + 1)


def test_training_videos_are_all_different():
    frames = [render(0, "train", number)[0] for number in range(8)]
    frames += [render(1, "train", 0)[0], render(0, "val", 0)[0]]
    for a, b in itertools.combinations(frames, 2):
        assert not np.array_equal(a, b)
        assert not np.array_equal(a[::-1], b)


def test_train_and_validation_share_no_photo(monkeypatch):
    assert not set(spec.TRAIN_FACES) & set(spec.VAL_FACES)
    # Checks the files that a render opens and the faces that it reads, not only the two lists.
    opened, read = set(), photos._read_picture
    looked, faces = set(), photos.faces()

    class Faces:
        def __getitem__(self, index):
            looked.add(int(index))
            return faces[index]

    monkeypatch.setattr(photos, "_read_picture", lambda *a: opened.add(a[0]) or read(*a))
    monkeypatch.setattr(drawing, "faces", Faces)

    def forget():
        for known in (photos.photos.cache_clear, photos.horse.cache_clear, opened.clear):
            known()
        looked.clear()

    seen = {}
    for split in spec.SPLITS:
        forget()
        for number in range(64):
            drawing.draw_layers(np.random.default_rng(number), split)
        seen[split] = opened | looked
        assert looked
        assert opened >= set(getattr(spec, f"{split.upper()}_PHOTOS"))
    forget()
    assert not seen["train"] & seen["val"]


@pytest.fixture(scope="module")
def rendered():
    with ThreadPoolExecutor(2) as pool:
        videos = list(pool.map(lambda number: render(0, "train", number), range(480)))
    return np.stack([frames for frames, _ in videos]), np.array([label for _, label in videos])


def _ridge_scores(features, labels, test_features):
    """Ridge regression to one-hot labels, penalty 0.3 on standardized features."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    x, z = (features - mean) / std, (test_features - mean) / std
    targets = np.eye(8)[labels] - 1 / 8
    return z @ np.linalg.solve(x.T @ x + 0.3 * len(x) * np.eye(x.shape[1]), x.T @ targets)


def _where_the_object_is(frame):
    """Returns a 14 x 11 map of the absolute difference from the background."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = np.abs(gray - np.median(gray))
    return cv2.resize(contrast, (14, 11), interpolation=cv2.INTER_AREA).ravel()


def _colors(frame):
    return cv2.resize(frame, (14, 11), interpolation=cv2.INTER_AREA).ravel().astype(np.float32)


@pytest.mark.full
@pytest.mark.parametrize("look", [_where_the_object_is, _colors])
def test_single_frames_do_not_tell_the_class(rendered, look):
    videos, labels = rendered
    # Four frames of every clip, spread over it; labels of 160 unseen clips (chance: 12.5 %).
    start = np.random.default_rng(0).integers(0, 6, len(labels))
    features = [look(videos[i, s + 6 * k]) for k in range(4) for i, s in enumerate(start)]
    features = np.stack(features).reshape(4, len(labels), -1)
    scores = _ridge_scores(
        features[:, :320].reshape(4 * 320, -1), np.tile(labels[:320], 4), features[:, 320:]
    )
    right = np.mean(scores.argmax(-1) == labels[320:])
    assert right < 0.175  # 640 frames; motion not centered in time gives more than 0.2

    # The middle frame, known to be the middle one, does not determine the direction.
    middle = np.stack([look(video[12]) for video in videos])
    scores = _ridge_scores(middle[:320], labels[:320], middle[320:])
    assert np.mean(scores.argmax(-1) == labels[320:]) < 0.23
    pairs = scores.reshape(-1, 4, 2)[np.arange(160), labels[320:] // 2]
    assert 0.38 < np.mean(pairs.argmax(-1) == labels[320:] % 2) < 0.62


def test_mean_frame_is_the_same_for_every_class(rendered):
    videos, labels = rendered
    means = np.stack([videos[labels == k, ::4].mean((0, 1)) for k in range(8)])
    coarse = np.stack([_colors(mean.astype(np.uint8)) for mean in means])
    # Standard deviation of coarse colors: 40 levels for one clip, 5 for the mean of 60 clips.
    assert np.abs(coarse - coarse.mean(0)).mean() < 8


def _flow_moments(video):
    """Returns mean flow (x, y), rotation and expansion of the moving part, in px per 3 frames."""
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video[::3]]
    grays = [cv2.GaussianBlur(gray, (0, 0), 1) for gray in grays]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    y, x = np.mgrid[: video.shape[1], : video.shape[2]]
    moments = []
    for before, after in itertools.pairwise(grays):
        flow = search.calc(before, after, None)
        u, v = np.moveaxis(flow - np.median(flow, (0, 1)), -1, 0)
        weight = np.minimum(np.hypot(u, v), 8) ** 2 + 1e-6
        weight /= weight.sum()
        dx, dy = x - (weight * x).sum(), y - (weight * y).sum()
        spread = np.sqrt((weight * (dx**2 + dy**2)).sum())
        terms = u, v, (dx * v - dy * u) / spread, (dx * u + dy * v) / spread
        moments.append([(weight * term).sum() for term in terms])
    return np.mean(moments, 0)


def test_motion_does_tell_the_class():
    """Four moments of the flow, without learning, have the signs that the class names state."""
    names = ["right", "down", "clockwise", "zoom_in", "left", "up", "counterclockwise", "zoom_out"]
    scale = np.array([1.9, 1.3, 0.6, 0.5])  # means of the moments over videos of their class

    def guess(number):
        frames, label = render(0, "val", number)
        moments = _flow_moments(frames) / scale
        return names[np.concatenate([moments, -moments]).argmax()] == spec.CLASSES[label]

    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(guess, range(80)))
    assert np.mean(right) > 0.6  # chance: 0.125; without the order of frames: 0.5


# --- Interruptions, several processes, errors ---------------------------------------------


def test_killed_and_completed(whole, tmp_path, caplog):
    root = tmp_path / "set"
    with _spawn(root) as process:
        _until(lambda: len(_complete(root)) >= 20)
        process.kill()
    kept = {path: path.stat().st_mtime_ns for path in _complete(root)}
    assert 20 <= len(kept) < 120
    assert not (root / "motion.json").exists()
    (root / "train/left/.motion-tmp-1-00000.mp4").write_bytes(b"half a file")
    empty = next(iter(kept))
    empty.write_bytes(b"")  # as after a power failure
    caplog.set_level("INFO", "jaxvideo")
    ensure_motion(root, **COUNTS)
    assert _contents(root) == _contents(whole)
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items() if p != empty)
    assert caplog.messages[0].startswith(f"rendering {120 - len(kept) + 1} motion videos")


@pytest.mark.full
def test_two_processes_make_one_set(whole, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    with open(root / folder._LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [_spawn(root), _spawn(root)]
        for process in processes:
            assert "waiting" in process.stderr.readline()
    for process in processes:
        _, process.errors = process.communicate(timeout=60)
        assert process.returncode == 0, process.errors
    # One process has rendered all videos, the other none.
    assert sorted("rendering" in process.errors for process in processes) == [False, True]
    assert _contents(root) == _contents(whole)


def test_finished_set_is_left_alone_and_a_lost_file_is_made_again(whole, tmp_path, caplog):
    root = ensure_motion(tmp_path / "a", train=8, val=8)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    caplog.set_level("INFO", "jaxvideo")
    caplog.clear()
    assert ensure_motion(root, train=8, val=8) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not caplog.messages
    lost = root / "val/down/00003.mp4"
    content = lost.read_bytes()
    lost.unlink()
    ensure_motion(root, train=8, val=8)
    assert lost.read_bytes() == content
    assert "rendering 1 motion" in caplog.messages[0]


def test_other_parameters_are_an_error(whole):
    before = _contents(whole)
    with pytest.raises(DataError) as caught:
        ensure_motion(whole, train=80, val=40, seed=4)
    message = str(caught.value)
    assert str(whole) in message
    assert "'seed': 3" in message
    assert "'seed': 4" in message
    assert _contents(whole) == before


def test_somebody_elses_folder_is_an_error(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="neither empty nor a motion set"):
        ensure_motion(tmp_path, train=8, val=8)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    "arguments",
    [{"train": 12}, {"val": 4}, {"train": -8}, {"seed": -1}, {"threads": 0}],
    ids=str,
)
def test_bad_arguments_are_an_error(tmp_path, arguments):
    with pytest.raises(DataError, match=f"{next(iter(arguments))}="):
        ensure_motion(tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_bad_video_is_an_error():
    for arguments in [(0, "test", 0), (0, "val", -1), (-1, "val", 0)]:
        with pytest.raises(DataError):
            render(*arguments)


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    root = ensure_motion(train=8, val=8, seed=5)
    assert root == tmp_path / "cache" / f"motion-v{spec.VERSION}-8-8-5"
    assert json.loads((root / "motion.json").read_text())["seed"] == 5


def test_unwritable_folder_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as caught:
        ensure_motion(tmp_path / "file" / "set", train=8, val=8)
    assert str(tmp_path / "file" / "set") in str(caught.value)
    assert "JAXVIDEO_CACHE" not in str(caught.value)
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="JAXVIDEO_CACHE"):
        ensure_motion(train=8, val=8)


def test_full_disk_is_one_error_and_can_be_resumed(tmp_path, monkeypatch):
    replace, written = folder._replace, []

    def full(path, content):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        replace(path, content)
        written.append(path)

    monkeypatch.setattr(folder, "_replace", full)
    with pytest.raises(DataError, match="No space left on device") as caught:
        ensure_motion(tmp_path / "a", train=16, val=8, threads=1)
    assert str(tmp_path / "a") in str(caught.value)
    monkeypatch.undo()
    ensure_motion(tmp_path / "a", train=16, val=8)
    assert len(list(tmp_path.rglob("*.mp4"))) == 24


def test_missing_photographs_name_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    photos.photos.cache_clear()
    with pytest.raises(DataError, match="pip install scikit-image"):
        ensure_motion(tmp_path / "a", train=8, val=8)
    assert not (tmp_path / "a").exists()
