"""`extract` on a directory, repeatedly, and the commands that use its features."""

import argparse
import os
import re

import av
import jax
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.cli import aslan, extract, pca, svm, tsne
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.progress import console
from jaxvideo.studies.aslan import measures, read_pairs
from jaxvideo.training.step import init_variables
from jaxvideo.types import ConfigError, DataError, Preprocessing

PRE = Preprocessing(frames=4, size=40, crop=32)
MODEL = {"name": "f_r2d_10", "width": 1 / 16, "num_classes": 3}
# Videos of three classes, which differ in the brightness of the upper half.
GRAY = {"dark": 40, "gray": 120, "bright": 220}


def run(*arguments):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for command in (extract, svm, pca, tsne, aslan):
        command.add(commands)
    options = parser.parse_args(list(map(str, arguments)))
    with console():
        return options.run(options)


def write(path, gray, seed, frames=12):
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(60, 80, (48, 64, 3))
            picture[:24] = np.clip(gray + rng.normal(0, 8, (24, 64, 3)), 0, 255)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data directory: four training and three test videos per class; one video is broken."""
    root = tmp_path_factory.mktemp("data")
    (root / "videos").mkdir()
    lines = {"train": [], "val": []}
    for label, (name, gray) in enumerate(GRAY.items()):
        for number in range(7):
            video = f"videos/{name}_{number}.mp4"
            write(root / video, gray, 10 * label + number)
            lines["train" if number < 4 else "val"].append(f"{video},{name}")
    (root / "videos/dark_6.mp4").write_text("no video")
    for split, rows in lines.items():
        (root / f"{split}.csv").write_text("\n".join(rows))
    (root / "classes.txt").write_text("\n".join(GRAY))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_variables(create_model(**MODEL), PRE, 0))

    def fill(path, leaf):
        own = rng.standard_normal(leaf.shape).astype(np.float32)
        return own**2 + 0.5 if path[-1].key == "var" else own / max(leaf.size, 9) ** 0.25

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, Weights(variables, MODEL, PRE, tuple("xyz"), {"source": "test"}))
    return str(path)


@pytest.fixture(scope="module")
def extracted(data, weights, tmp_path_factory):
    """Two feature directories: the classifier's input, and an earlier map of two clips."""
    out = tmp_path_factory.mktemp("features")
    assert run("extract", data, "--checkpoint", weights, "--out", out / "pool", "--every", 8) == 1
    more = ("--endpoint", "conv1", "--clips", 2, "--per-clip", "--normalize", "--crops", 3)
    assert run("extract", data, "--checkpoint", weights, "--out", out / "conv1", *more) == 1
    return out


def stored(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file}


def matrix(folder, names):
    rows = [stored(folder / f"videos/{name}.mp4.npz")["features"] for name in names]
    return np.stack([row.mean(0) if row.ndim == 2 else row for row in rows])


TRAIN = [f"{name}_{number}" for name in GRAY for number in range(4)]
TEST = [f"{name}_{number}" for name in GRAY for number in range(4, 7)]
TEST.remove("dark_6")
CLASS = {name: label for label, name in enumerate(GRAY)}


def labels(names):
    return np.array([CLASS[name.split("_")[0]] for name in names])


def test_what_a_file_holds(extracted):
    found = stored(extracted / "pool/videos/dark_0.mp4.npz")
    assert found["features"].shape == (32,)
    assert found["starts"].tolist() == [0, 8]
    np.testing.assert_allclose(found["times"], [0, 0.32], atol=1e-6)
    assert (str(found["model"]), str(found["endpoint"])) == ("f_r2d_10", "pre_logits")
    assert str(found["protocol"]).startswith("pre_logits of a clip every 8 frames x center crop")
    assert str(found["video"]).endswith("videos/dark_0.mp4")
    rows = stored(extracted / "conv1/videos/dark_0.mp4.npz")
    assert rows["features"].shape == (2, 4)
    np.testing.assert_allclose(np.linalg.norm(rows["features"], axis=1), 1, rtol=1e-5)
    assert len(list(extracted.rglob("*.npz"))) == 2 * 20
    assert not [p for p in extracted.rglob("*") if p.is_file() and p.suffix != ".npz"]


def test_again(data, weights, tmp_path, capsys):
    """Finished files are skipped, damaged ones rewritten, and the broken video is reported."""
    some = [data / "videos" / f"dark_{number}.mp4" for number in (0, 1, 2, 6)]
    command = ("extract", *some, "--checkpoint", weights, "--out", tmp_path / "out")
    assert run(*command) == 1
    printed = capsys.readouterr()
    assert "3 written, 0 skipped (already present), 1 failed" in printed.out
    assert "f_r2d_10: pre_logits of 10 clips x center crop" in printed.out
    assert re.search(r"error: .*dark_6\.mp4: cannot be opened", printed.err)
    kept = tmp_path / "out" / "dark_0.mp4.npz"
    before = os.stat(kept).st_mtime_ns, stored(kept)["features"]
    other = stored(tmp_path / "out" / "dark_1.mp4.npz")["features"]
    (tmp_path / "out" / "dark_1.mp4.npz").write_bytes(kept.read_bytes()[:300])
    (tmp_path / "out" / "dark_2.mp4.npz").unlink()
    assert run(*command) == 1
    assert "2 written, 1 skipped (already present), 1 failed" in capsys.readouterr().out
    assert os.stat(kept).st_mtime_ns == before[0]
    np.testing.assert_array_equal(stored(tmp_path / "out" / "dark_1.mp4.npz")["features"], other)
    with pytest.raises(ConfigError, match="has features of other settings; choose another --out"):
        run(*command, "--endpoint", "conv1")
    assert run(*command[:3], *command[-4:]) == 0


def test_wrong_options(data, weights, tmp_path):
    command = ("extract", data, "--checkpoint", weights, "--out", tmp_path)
    with pytest.raises(ConfigError, match="--every=0: must be at least 1"):
        run(*command, "--every", 0)
    with pytest.raises(ConfigError, match="--every and --clips are mutually exclusive"):
        run(*command, "--every", 8, "--clips", 2)
    with pytest.raises(ConfigError, match=r"endpoint='fc6': .*Allowed are conv1"):
        run(*command, "--endpoint", "fc6")
    with pytest.raises(ConfigError, match="--threads=0"):
        run(*command, "--threads", 0)
    assert not list(tmp_path.rglob("*.npz"))


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn", reason="needs the extra [analysis]")


def test_svm(sklearn, data, extracted, capsys):
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    both = [extracted / "pool", extracted / "conv1"]
    assert run("svm", *both, "--annotations", data) == 0
    printed = capsys.readouterr().out
    train, test = (
        np.concatenate([matrix(folder, names) for folder in both], 1) for names in (TRAIN, TEST)
    )
    plain = LinearSVC(dual=False).fit(train, labels(TRAIN)).predict(test)
    accuracy = 100 * (plain == labels(TEST)).mean()
    mean = 100 * balanced_accuracy_score(labels(TEST), plain)
    assert accuracy > 60  # the classes are easy to separate
    assert f"accuracy {accuracy:.2f} %, mean class accuracy {mean:.2f} % of 8 of 9 vid" in printed
    assert "36 features of 12 videos" in printed
    assert "C = 1, trained on 12 of 12 videos" in printed
    assert "f_r2d_10, conv1 of 2 clips x 3 crops" in printed
    assert run("svm", both[0], "--annotations", data, "--c", "auto") == 0
    printed = capsys.readouterr()
    assert "chosen by cross-validation on the training videos" in printed.out
    assert printed.err.count("in cross-validation") == 5


def test_leave_one_out(sklearn, data, extracted, capsys):
    command = ("svm", extracted / "pool", "--annotations", data, "--leave-one-out")
    everyone = [*TRAIN, *TEST]
    groups = data / "groups.txt"
    groups.write_text("\n".join(f"videos/{name}.mp4 {name[-1]}" for name in everyone))
    for more, count in (((), 20), (("class",), 7), (("groups.txt",), 7)):
        assert run(*command, *more) == 0
        printed = capsys.readouterr().out
        assert "of 20 of 21 videos, 3 classes\n  linear SVM, C = 1, leave-one-out" in printed
        assert f"leave-one-out over {count} groups" in printed
    groups.write_text("videos/dark_0.mp4 1\n")
    with pytest.raises(DataError, match=r"groups\.txt names no group for 19 videos"):
        run(*command, "groups.txt")
    groups.unlink()


def test_pca(sklearn, data, extracted, tmp_path, capsys):
    picture = tmp_path / "pca.png"
    command = ("pca", extracted / "pool", "--annotations", data, "--out", picture)
    assert run(*command, "--dimensions", 1, 2, 4) == 0
    rows = re.findall(r"^ +(\d+)  ([\d.]+) %$", capsys.readouterr().out, re.MULTILINE)
    assert [int(dimensions) for dimensions, _ in rows] == [1, 2, 4]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert run(*command) == 0  # those of the default dimensions that are possible
    assert re.findall(r"^ +(\d+)  ", capsys.readouterr().out, re.MULTILINE) == ["10"]
    with pytest.raises(ConfigError, match="12 training videos with 32 features allow 1 to 12"):
        run(*command, "--dimensions", 50)
    with pytest.raises(ConfigError, match="cannot be written"):
        run(*command[:-1], tmp_path / "gone" / "x.png")


def test_tsne(sklearn, data, extracted, tmp_path, capsys):
    from threadpoolctl import threadpool_limits

    picture = tmp_path / "tsne.png"
    command = ("tsne", extracted / "pool", "--annotations", data, "--out", picture)
    with threadpool_limits(1):
        assert run(*command, "--perplexity", 4) == 0
        assert f"picture of 20 of 21 videos: {picture}" in capsys.readouterr().out
        assert picture.read_bytes()[:4] == b"\x89PNG"
        assert run(*command, "--perplexity", 4, "--limit", 9) == 0
    assert "picture of 9 of 21" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="less than the 20 videos"):
        run(*command)


def test_aslan(sklearn, data, extracted, tmp_path, capsys):
    """The accuracy equals that of the measures with a plain SVM."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    rows = ["first,second,same,split", "videos/dark_0.mp4,videos/dark_6.mp4,1,1"]
    for number in range(90):
        one, same = TRAIN[rng.integers(12)], 1 - number % 2
        others = [name for name in TRAIN if (CLASS[name[:-2]] == CLASS[one[:-2]]) == same]
        other = others[rng.integers(len(others))]
        rows.append(f"videos/{one}.mp4,videos/{other}.mp4,{same},{number % 3}")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(rows))
    kinds = [extracted / "pool", extracted / "conv1"]
    assert run("aslan", *kinds, path) == 0
    printed = capsys.readouterr().out
    assert "90 of 91 pairs, 3 splits, 24 measures, linear SVM, C = 1" in printed
    pairs = read_pairs(path)
    keep = np.array([i for i, name in enumerate(pairs.second) if "dark_6" not in name])
    vectors = []
    for kind in kinds:
        sides = []
        for names in (pairs.first, pairs.second):
            side = matrix(kind, [names[i][7:-4] for i in keep])
            sides.append(side / np.linalg.norm(side, axis=1, keepdims=True))
        vectors.append(measures(*sides))
    x, same, split = np.concatenate(vectors, 1), pairs.same[keep], pairs.split[keep]
    accuracies = []
    for name in range(3):
        plain = make_pipeline(StandardScaler(), SVC(kernel="linear"))
        plain.fit(x[split != name], same[split != name])
        accuracies.append(plain.score(x[split == name], same[split == name]))
    error = np.std(accuracies, ddof=1) / 3**0.5
    assert f"accuracy {100 * np.mean(accuracies):.2f} +- {100 * error:.2f} %, AUC " in printed
    assert np.mean(accuracies) > 0.7
    with pytest.raises(ConfigError, match="--c=0"):
        run("aslan", *kinds, path, "--c", 0)
