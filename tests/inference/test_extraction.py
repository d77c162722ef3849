"""Features of whole videos: their values and their files."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.data.decode import read_clip
from jaxvideo.data.video import open_video
from jaxvideo.data.views import protocol_views
from jaxvideo.inference import features
from jaxvideo.inference.features import (
    Extraction,
    feature_files,
    is_extracted,
    make_extractor,
    recipe_of,
    write_features,
)
from jaxvideo.models import MODELS
from jaxvideo.types import ConfigError, DataError, Preprocessing, Protocol, VideoError, View
from tests.conftest import write_video
from tests.marks import some
from tests.models.test_zoo import facts

PRE = Preprocessing(
    frames=4, size=40, crop=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3), pixels="rgb"
)
MIDDLE = Protocol(clips=1)
VARIABLES = {"params": {"a": np.float32([[1, 0, 2, 1, 0], [0, 1, 1, -1, 3], [1, 1, 0, 0, -2]])}}
CLASSES = np.float32([[1, 0], [0, 1], [1, -1], [2, 0], [0, 3]])


class Network:
    """A network with five features per pixel and two classes that NumPy can reproduce."""

    dtype = np.float32

    def apply(self, variables, clip, *, train, mutable=()):
        assert not train
        found = {"map": clip @ variables["params"]["a"]}
        found["pool"] = found["map"].mean((1, 2, 3))
        result = found["pool"] @ CLASSES, found
        return (result, {}) if mutable else result  # the network has nothing to fold


def extractor(endpoint, *arguments, **more):
    return make_extractor(Network(), VARIABLES, PRE, Extraction(endpoint, *arguments, **more))


def maps_of(video, starts, crop):
    """Computes `[clips, T, H, W, 5]` for one of three crops, one clip at a time."""
    found = []
    with open_video(video) as file:
        size = file.num_frames, file.height, file.width, file.fps
        (views,) = protocol_views(*size, PRE, Protocol(clips=1, crops=3))
        for start in starts:
            view = View(tuple(range(start, start + 4)), views[crop].window)
            pixels = read_clip(file, [view], 32)[0].astype(np.float64)
            clip = (pixels / 255 - np.asarray(PRE.mean)) / np.asarray(PRE.std)
            found.append(clip @ VARIABLES["params"]["a"])
    return np.stack(found)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_numbers_are_the_networks_own(video, platform, monkeypatch):
    """Clips are read and computed in batches, which are padded on an accelerator."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    starts = [0, 2, 5, 8, 11, 14, 17, 20, 23, 26]  # floor(26 i / 9): more clips than one read
    ten = Protocol(clips=10, crops=3)
    found = extractor("map", ten, per_clip=True, keep_map=True)(str(video))
    assert found["starts"].tolist() == starts
    np.testing.assert_allclose(found["times"], np.asarray(starts) / 25, atol=1e-6)
    maps = np.mean([maps_of(video, starts, crop) for crop in range(3)], 0)
    assert found["features"].dtype == np.float32
    close(found["features"], maps)
    close(extractor("map", ten, per_clip=True)(str(video))["features"], maps.mean((1, 2, 3)))
    close(extractor("map", ten, keep_map=True)(str(video))["features"], maps.mean(0))
    mean = maps.mean((0, 1, 2, 3))
    close(extractor("map", ten)(str(video))["features"], mean)
    unit = extractor("map", ten, normalize=True)(str(video))["features"]
    close(unit, mean / np.linalg.norm(mean))


@pytest.mark.parametrize(("frames", "starts"), [(30, [0, 7, 14, 21]), (4, [0]), (3, [0])])
def test_a_clip_every_so_many_frames(tmp_path, frames, starts):
    """C3D's clips of 16 frames that overlap by 8, as many as fit."""
    path = write_video(tmp_path / "v.mp4", frames=frames)
    found = extractor("pool", MIDDLE, every=7, per_clip=True)(str(path))
    assert found["starts"].tolist() == starts
    assert found["features"].shape == (len(starts), 5)
    if frames >= 4:  # otherwise the clip loops
        close(found["features"], maps_of(path, starts, 1).mean((1, 2, 3)))


def test_short_videos_are_filled_as_the_weights_want(tmp_path):
    """Clips of four frames from three: the fourth is the first, the last, or black."""
    path = write_video(tmp_path / "v.mp4", frames=3)
    first = {}
    for short in ("loop", "hold", "pad"):
        p = dataclasses.replace(PRE, short=short)
        extract = make_extractor(
            Network(), VARIABLES, p, Extraction("map", MIDDLE, every=1, keep_map=True)
        )
        first[short] = extract(str(path))["features"]
    close(first["loop"][3], first["loop"][0])
    close(first["hold"][3], first["hold"][2])
    black = -np.asarray(PRE.mean) / np.asarray(PRE.std) @ VARIABLES["params"]["a"]
    close(first["pad"][3], np.broadcast_to(black, first["pad"][3].shape))
    close(first["pad"][:3], first["loop"][:3])


def test_normalized_per_clip_and_probabilities(video):
    rows = extractor("pool", Protocol(clips=3), per_clip=True, normalize=True)(str(video))
    close(np.linalg.norm(rows["features"], axis=1), np.ones(3))
    prob, logits = (extractor(name, MIDDLE)(str(video))["features"] for name in ("prob", "logits"))
    close(logits, maps_of(video, [13], 1).mean((0, 1, 2, 3)) @ CLASSES)
    close(prob, np.exp(logits) / np.exp(logits).sum())
    with pytest.raises(ConfigError, match=r"'fc6': Network has no .*Allowed are map, pool, logits"):
        extractor("fc6", MIDDLE)(str(video))


def test_refusals(tmp_path):
    (tmp_path / "v.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"v\.mp4: cannot be opened"):
        extractor("pool", MIDDLE)(str(tmp_path / "v.mp4"))
    with pytest.raises(ConfigError, match="every=-1: must be at least 1"):
        Extraction("pool", MIDDLE, every=-1)
    with pytest.raises(ConfigError, match="every=2: clips of 2 segments cover the whole video"):
        extractor("pool", Protocol(clips=1, segments=2), every=2)


ONE_PER_CLASS = {entry.build: name for name, entry in reversed(MODELS.items())}
EACH = [(name, end) for name in ONE_PER_CLASS.values() for end in ("pre_logits", "prob")]
# Logits are `[N, classes]` in every network, see `tests/models/test_zoo.py`.
CHOSEN = [pair for pair in EACH if pair[1] == "pre_logits" or pair[0] in ("c3d", "i3d_rgb")]


@pytest.mark.parametrize("pair", some(EACH, CHOSEN), ids=str)
def test_features_of_every_class_of_networks(pair):
    """One vector per clip, also for networks that classify several positions or steps."""
    name, endpoint = pair
    model, p = create_model(name), MODELS[name].preprocessing
    traced = facts(name).trace
    video = jax.ShapeDtypeStruct((2, *p.video_shape), np.uint8)
    compute = features._endpoint(model, p, endpoint, keep_map=False)
    found = jax.eval_shape(compute, traced.variables, video)
    like = "logits" if endpoint == "prob" else endpoint
    assert (found.shape, found.dtype) == ((2, traced.endpoints[like].shape[-1]), np.float32)


def test_names_of_files(tmp_path):
    for name in ("a/x.mp4", "b/x.mp4", "b/deep/x.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files = feature_files([str(tmp_path)], "out")
    assert [str(path) for path in files.values()] == [
        str(Path("out", f"{name}.npz")) for name in ("a/x.mp4", "b/deep/x.avi", "b/x.mp4")
    ]
    (single,) = feature_files([str(tmp_path / "a/x.mp4")], "out").values()
    assert single == Path("out/x.mp4.npz")
    with pytest.raises(
        ConfigError, match=r"x\.mp4 and .*x\.mp4 would both be written to out/x\.mp4\.npz"
    ):
        feature_files([str(tmp_path / "a"), str(tmp_path / "b")], "out")
    with pytest.raises(DataError, match="gone: no such file"):
        feature_files([str(tmp_path / "gone")], "out")


def test_what_is_done_already(tmp_path):
    model = {"name": "tiny", "width": 4}
    recipe = recipe_of(Extraction("pool", MIDDLE), model, VARIABLES, PRE)
    target = tmp_path / "deep" / "v.mp4.npz"
    assert not is_extracted(target, recipe)
    write_features(target, {"features": np.ones(3), "recipe": recipe})
    assert is_extracted(target, recipe)
    # Other weights or another endpoint are another recipe, which is refused.
    other = jax.tree.map(lambda leaf: leaf + 1, VARIABLES)
    with pytest.raises(
        ConfigError, match=r"has features of other settings; choose another --out\.\n  network"
    ):
        is_extracted(target, recipe_of(Extraction("pool", MIDDLE), model, other, PRE))
    with pytest.raises(ConfigError, match="endpoint: pool in the file, conv1 requested"):
        is_extracted(target, recipe_of(Extraction("conv1", MIDDLE), model, VARIABLES, PRE))
    whole = target.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:3], b"", b"text" * 99):
        target.write_bytes(damaged)
        assert not is_extracted(target, recipe)
    np.savez(target, features=np.ones(3))
    assert not is_extracted(target, recipe)
    assert json.loads(recipe)["preprocessing"]["frames"] == 4


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "v.npz"
    write_features(target, {"features": np.arange(3)})
    before = target.read_bytes()

    def half(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(KeyboardInterrupt):
            write_features(target, {"features": np.arange(4)})
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/v\.npz cannot be written"):
        write_features(tmp_path / "file" / "v.npz", {"features": np.arange(4)})


def test_descriptions():
    p = Preprocessing(frames=16, size=128, width=171, crop=112)
    c3d = Extraction("fc6", Protocol(clips=10), every=8, normalize=True)
    assert c3d.describe(p) == (
        "fc6 of a clip every 8 frames x center crop per video (16 frames, stride 1, scaled to "
        "128 x 171, crop 112), mean over T, H, W and clips, L2-normalized"
    )
    rows = Extraction("pool5", Protocol(clips=2, crops=3), per_clip=True, keep_map=True)
    assert rows.describe(p) == (
        "pool5 of 2 clips x 3 crops per video (16 frames, stride 1, scaled to 128 x 171, crop 112)"
    )
