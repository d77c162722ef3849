"""Packed videos are read back with the same frames, times, labels and names."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import tensorflow_datasets

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.datasets.load import load_splits
from jaxvideo.data.decode import decode_frames, read_clip
from jaxvideo.data.engines import Engine
from jaxvideo.data.loading import Loading
from jaxvideo.data.packed.builder import PackedVideos
from jaxvideo.data.packed.read import load_foreign, load_packed, load_tfds
from jaxvideo.data.packed.record import Packing, pack_video, parse, record_video
from jaxvideo.data.packed.write import pack
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.video import open_video
from jaxvideo.types import ConfigError, DataError, Preprocessing, VideoError, View, Window
from tests.conftest import write_video

SMALL = Packing(size=32, per_shard=3, gop=5)
JPEG = Packing(format="jpeg", size=32, per_shard=3)
RAW = Packing(format="raw", size=32, per_shard=3)
COUNT, BROKEN, UNEVEN = 7, 4, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven videos of two classes; one is broken, one of variable rate."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(COUNT):
        pts = [k + k // 3 for k in range(20 + i)] if i == UNEVEN else None
        write_video(root / f"v{i}.mp4", 20 + i, pts=pts, b_frames=2 * (i == 2))
    (root / f"v{BROKEN}.mp4").write_bytes(b"no video")
    lines = [f"v{i}.mp4 {'ab'[i % 2]}" for i in range(COUNT)]
    (root / "train.csv").write_text("\n".join(lines))
    (root / "val.csv").write_text("\n".join(lines[:2]))
    return root


@pytest.fixture(scope="module")
def dataset(folder) -> VideoDataset:
    return load_splits(folder)["train"]


@pytest.fixture(scope="module")
def packed(folder, dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack({"train": dataset}, out, SMALL, root=folder)
    return out


def whole(file, indices):
    return read_clip(file, [View(tuple(indices), Window(0, 0, file.height, file.width))], 32)[0]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("packed_videos-*")}


KEPT = [i for i in range(COUNT) if i != BROKEN]


def test_names_and_labels_without_reading_a_record(packed):
    found = load_packed(packed, "train")
    assert found.paths == tuple(f"v{i}.mp4" for i in KEPT)
    assert found.labels == tuple(i % 2 for i in KEPT)
    assert found.classes == ("a", "b")
    assert found.missing == (f"v{BROKEN}.mp4",)


@pytest.mark.parametrize("settings", [SMALL, JPEG, RAW], ids=["mp4", "jpeg", "raw"])
def test_frames_and_times_are_those_of_the_files(folder, dataset, tmp_path, settings):
    told = []
    out = tmp_path / "o"
    summary = pack({"train": dataset}, out, settings, root=folder, note=told.append)
    assert summary.videos == len(KEPT)
    assert list(summary.left_out) == [f"train: v{BROKEN}.mp4"]
    assert len(told) == 1
    assert f"v{BROKEN}.mp4" in told[0]
    assert summary.bytes_before == sum(os.path.getsize(dataset.paths[i]) for i in KEPT)
    found = load_packed(tmp_path / "o", "train")
    for place, index in enumerate(KEPT):
        with av.open(dataset.paths[index]) as container:
            frames = list(container.decode(video=0))
        expected = [
            cv2.resize(f.to_ndarray(format="rgb24"), (42, 32), interpolation=cv2.INTER_AREA)
            for f in frames
        ]
        times = np.asarray([float((f.pts - frames[0].pts) * f.time_base) for f in frames])
        with found.open(place) as file:
            assert (file.height, file.width, file.num_frames) == (32, 42, len(frames))
            np.testing.assert_allclose(file.times, times, atol=1e-9)
            own = [p for _, p in decode_frames(file, range(len(frames)))]
            error = np.mean(np.square(np.subtract(own, expected, dtype=np.float64)))
            assert 10 * np.log10(255**2 / error) > 40


def test_a_clip_from_memory_is_that_of_the_whole_file(packed):
    """The record's bytes are a file; decoding it sequentially gives the same frames."""
    found = load_packed(packed, "train")
    for index in range(len(found)):
        content = parse(found.source[index])["video"]
        with av.open(io.BytesIO(content)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        for indices in ([0], [7, 8, 9], [4, 5, 14, 19], [19], [11, 12, 3]):
            with found.open(index) as file:
                expected = [
                    cv2.resize(frames[i], (32, 32), interpolation=cv2.INTER_LINEAR) for i in indices
                ]
                np.testing.assert_array_equal(whole(file, indices), expected)
        with open_video(content) as file, found.open(index) as own:
            np.testing.assert_allclose(file.times, own.times, atol=1e-5)
            np.testing.assert_array_equal(file.keyframes, own.keyframes)
            assert list(own.keyframes) == list(range(0, len(frames), SMALL.gop))


def test_no_more_is_decoded_than_from_the_key_frame(packed):
    """Only the bytes from the key frame to the last selected frame are read."""
    record = parse(load_packed(packed, "train").source[0])
    with_all = whole(record_video(record, "r"), [7, 8])
    offsets, content = record["offsets"], bytearray(record["video"])
    content[: offsets[5]] = bytes(offsets[5])
    content[offsets[9] :] = bytes(len(content) - offsets[9])
    record["video"] = bytes(content)
    np.testing.assert_array_equal(whole(record_video(record, "r"), [7, 8]), with_all)


def test_jpeg_frames_are_in_a_row(dataset):
    with dataset.open(0) as file:
        record = pack_video(file, JPEG)
    pieces = record["video"].split(b"\xff\xd8\xff")[1:]
    assert len(pieces) == 20
    lengths = np.diff(record["offsets"])
    np.testing.assert_array_equal(lengths, [len(piece) + 3 for piece in pieces])
    picture = cv2.imdecode(np.frombuffer(b"\xff\xd8\xff" + pieces[13], np.uint8), 1)
    own = whole(record_video(record, "r"), [13])[0]
    assert abs(own[20:, 20:].mean() - 8 * 13) < 3
    assert abs(float(picture.mean()) - own.mean()) < 3


def test_workers_write_the_same_shards(folder, dataset, packed, tmp_path):
    pack({"train": dataset}, tmp_path / "o", SMALL, root=folder, engine=Engine(workers=2))
    assert contents(tmp_path / "o") == contents(packed)
    assert json.loads((tmp_path / "o/metadata.json").read_text()) == json.loads(
        (packed / "metadata.json").read_text()
    )


KILLED = """
import os, sys
from jaxvideo.data.datasets.load import load_splits
from jaxvideo.data.packed.record import Packing
from jaxvideo.data.packed.write import pack
def watch(videos):
    for count, video in enumerate(videos):
        if count == 5:
            os._exit(9)
        yield video
packing = Packing(size=32, per_shard=3, gop=5)
pack({"train": load_splits(sys.argv[1])["train"]}, sys.argv[2], packing, root=sys.argv[1],
          watch=watch)
"""


def test_a_killed_run_is_resumed(folder, dataset, packed, tmp_path, repository):
    out = tmp_path / "o"
    done = subprocess.run([sys.executable, "-c", KILLED, folder, out], cwd=repository, check=False)
    assert done.returncode == 9
    assert not (out / "dataset_info.json").exists()
    assert any(out.glob(".tmp-*"))
    with pytest.raises(DataError, match="not finished"):
        load_packed(out, "train")
    (first,) = contents(out)
    assert first.endswith("00000-of-00003")
    stamp = (out / first).stat().st_mtime_ns
    again = []

    def watch(videos):
        again.extend(videos)
        return videos

    with pytest.raises(DataError, match="other packing"):
        pack({"train": dataset}, out, JPEG, root=folder)
    pack({"train": dataset}, out, SMALL, root=folder, watch=watch)
    assert again == [3, 4, 5, 6]
    assert (out / first).stat().st_mtime_ns == stamp
    assert contents(out) == contents(packed)
    assert {p.name for p in out.iterdir()} == {p.name for p in packed.iterdir()}


def test_an_interrupted_run_leaves_no_half_shard(folder, dataset, packed, tmp_path):
    def watch(videos):
        yield from videos[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack({"train": dataset}, tmp_path / "o", SMALL, root=folder, watch=watch)
    assert len(contents(tmp_path / "o")) == 1
    assert not any((tmp_path / "o").glob(".tmp-*"))


def test_a_finished_folder_is_not_written_again(folder, dataset, packed):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}

    def watch(videos):
        raise AssertionError("nothing is to be done")

    summary = pack({"train": dataset}, packed, SMALL, root=folder, watch=watch)
    assert summary.videos == len(KEPT)
    assert {path: path.stat().st_mtime_ns for path in packed.iterdir()} == before
    with pytest.raises(DataError, match="other packing"):
        pack({"train": dataset}, packed, JPEG, root=folder)
    fewer = VideoDataset(dataset.paths[:2], dataset.labels[:2], dataset.classes)
    with pytest.raises(DataError, match="other videos"):
        pack({"train": fewer}, packed, SMALL, root=folder)


def test_refusals(folder, dataset, packed, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        pack({"train": dataset}, tmp_path / "full", SMALL)
    broken = VideoDataset((dataset.paths[BROKEN],), (0,), dataset.classes)
    with pytest.raises(DataError, match=rf"no video of 'train'.*\n.*v{BROKEN}\.mp4"):
        pack({"train": broken}, tmp_path / "o", SMALL)
    other = VideoDataset(dataset.paths, dataset.labels, ("b", "a"))
    with pytest.raises(DataError, match="different classes"):
        pack({"train": dataset, "val": other}, tmp_path / "p", SMALL)
    with pytest.raises(DataError, match="no split 'test', only train"):
        load_packed(packed, "test")
    with pytest.raises(DataError, match="does not exist"):
        load_packed(tmp_path / "nowhere", "train")
    for wrong in ({"format": "avi"}, {"size": 0}, {"gop": 0}, {"crf": 60}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Packing(**wrong)


def test_the_size_of_the_frames_is_known(packed):
    assert load_packed(packed, "train").size == SMALL.size


def test_a_shard_that_is_gone_names_the_video(folder, dataset, tmp_path):
    pack({"train": dataset}, tmp_path / "o", SMALL, root=folder)
    found = load_packed(tmp_path / "o", "train")
    for path in (tmp_path / "o").glob("*-00001-of-*"):
        path.unlink()
    with found.open(0) as file:
        assert file.num_frames == 20
    with pytest.raises(VideoError, match=r"v5\.mp4"), found.open(4):
        pass


@pytest.mark.parametrize("loading", [Loading(threads=3), Loading(workers=1)], ids=str)
def test_batches_out_of_shards(packed, loading):
    found = load_packed(packed, "train")
    how = Preprocessing(frames=4, size=32, crop=24, pixels="rgb")
    batches = list(train_batches(found, how, batch_size=6, seed=0, last_batch=2, loading=loading))
    assert len(batches) == 2
    for batch in batches:
        assert batch["weight"].all()
        assert sorted(batch["sample"][:, 1]) == list(range(6))
        assert list(batch["label"]) == [found.labels[i] for i in batch["sample"][:, 1]]
        # Consecutive frames differ by 8 gray levels.
        steps = np.diff(batch["video"][:, :, 20:, 20:].astype(float).mean((2, 3, 4)), axis=1)
        assert abs(np.median(steps) - 8) < 1


def test_a_packed_set_can_be_sent(packed):
    found = load_packed(packed, "train")
    with found.open(0) as file:
        expected = whole(file, [3])
    sent = pickle.loads(pickle.dumps(found))
    assert sent == found
    with sent.open(0) as file:
        np.testing.assert_array_equal(whole(file, [3]), expected)


READ = """
import sys
import tensorflow_datasets
builder = tensorflow_datasets.builder_from_directory(sys.argv[1])
source = builder.as_data_source("train")
record = source[2]
print(len(source), record["name"].decode(), record["class"].decode(), record["label"])
from jaxvideo.data.packed.read import load_packed
with load_packed(sys.argv[1], "train").open(2) as file:
    print(file.num_frames)
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""


def test_tfds_reads_it_without_tensorflow(packed, repository):
    done = subprocess.run(
        [sys.executable, "-c", READ, packed], cwd=repository, check=True, capture_output=True
    )
    assert done.stdout.decode().split() == ["6", "v2.mp4", "a", "0", "22"]


def test_the_builder_of_tfds_packs_the_same(folder, dataset, packed, tmp_path):
    builder = PackedVideos({"train": dataset}, SMALL, root=str(folder), data_dir=tmp_path)
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == len(KEPT)
    found, expected = (load_packed(d, "train") for d in (builder.data_dir, packed))
    for field in ("paths", "labels", "classes", "missing"):
        assert getattr(found, field) == getattr(expected, field)
    for one, other in zip(found.source, expected.source, strict=True):
        # The order of the fields in the bytes is arbitrary.
        np.testing.assert_equal(parse(one), parse(other))


def test_several_labels_of_a_video(dataset, tmp_path):
    many = VideoDataset(dataset.paths[:3], (0, 1, 0), ("a", "b"), ((0, 1), (1,), (0,)))
    pack({"train": many}, tmp_path / "o", SMALL)
    found = load_packed(tmp_path / "o", "train")
    assert found.label_sets == ((0, 1), (1,), (0,))
    assert found.labels == (0, 1, 0)
    assert found.paths == many.paths
    assert list(parse(found.source[0])["labels"]) == [0, 1]


def test_foreign_records(dataset):
    with dataset.open(0) as file:
        frames = [frame for _, frame in decode_frames(file, range(file.num_frames))]
        expected = whole(file, [3, 9])
    pngs = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in frames]
    content = Path(dataset.paths[0]).read_bytes()
    for video in (np.stack(frames), frames, pngs, content):
        found = load_foreign([{"video": video, "label": 1}], ("x", "y"), fps=25, name="f")
        assert (found.labels, found.classes) == ((1,), ("x", "y"))
        with found.open(0) as file:
            assert (file.num_frames, round(file.fps)) == (20, 25)
            np.testing.assert_allclose(file.times, np.arange(20) / 25, atol=1e-9)
            np.testing.assert_array_equal(whole(file, [3, 9]), expected)
    with pytest.raises(DataError, match="no field 'label', only video"):
        load_foreign([{"video": frames}])
    with pytest.raises(DataError, match="a label is 2, but there are 2"):
        load_foreign([{"video": frames, "label": 2}], ("x", "y"))
    wrong = load_foreign([{"video": np.zeros((3, 8, 8)), "label": 0}])
    with pytest.raises(VideoError, match="record 0: frame 0 is float64"), wrong.open(0):
        pass


def test_a_foreign_folder_of_tfds(dataset, tmp_path):
    """A TFDS builder outside of jaxvideo, with encoded frames."""
    with dataset.open(0) as file:
        frames = [frame for _, frame in decode_frames(file, range(5))]
    pngs = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in frames]
    features = tensorflow_datasets.features

    class Elsewhere(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")
        code_path = None

        def _info(self):
            fields = {
                "video": features.Sequence(features.Text()),
                "label": features.ClassLabel(names=["x", "y"]),
            }
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(fields)
            )

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                yield i, {"video": pngs[: i + 2], "label": i % 2}

    builder = Elsewhere(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(DataError, match="was not packed"):
        load_packed(builder.data_dir, "test")
    found = load_tfds(builder.data_dir, "test", fps=5)
    assert found.classes == ("x", "y")
    for i in range(3):
        with found.open(i) as file:
            assert found.labels[i] == file.num_frames % 2
            np.testing.assert_array_equal([p for _, p in decode_frames(file, [1])], [frames[1]])


def test_tensorflow_is_asked_for_where_it_is_needed():
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match=r"jaxvideo\[tf\]"):
            load_tfds("ucf101", "train")
    else:
        pytest.skip("TensorFlow is installed")
