"""Loggers: TensorBoard files, and Weights & Biases and MLflow by modules of the same interface."""

import contextlib
import sys
import types

import pytest
from tensorboardX.proto import event_pb2

from jaxvideo.training import distributed, loggers
from jaxvideo.training.config import check_config, read_config
from jaxvideo.training.loggers import LOGGERS, Opening, check_loggers, log_steps, open_loggers
from jaxvideo.types import ConfigError, UsageError

CONFIG = {"seed": 1, "optim": {"lr": 0.5}, **{f"key{i}": i for i in range(150)}}


def events(folder):
    """Reads (step, tag, value) of all event files in the order of writing."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:  # length, its checksum, the record, its checksum
            size = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard(tmp_path):
    with open_loggers(("tensorboard",), Opening(tmp_path, {})) as write:
        write(10, {"step/loss": 2.0, "step/lr": 0.5})
        write(20, {"val_top1": 0.25})
    assert list(events(tmp_path / "tensorboard")) == [
        (10, "step/loss", 2.0),
        (10, "step/lr", 0.5),
        (20, "val_top1", 0.25),
    ]


@pytest.fixture
def wandb(monkeypatch):
    """A module with the functions of wandb that are used; collects the calls."""
    calls = []

    class Run:
        def __init__(self, identifier):
            self.id = identifier or "id1"

        def log(self, values, *, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    def init(**how):
        calls.append(how)
        return Run(how["id"])

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=True))
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name in sys.modules)
    return calls


def test_wandb(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    workdir = tmp_path / "run7"
    workdir.mkdir()
    for _ in range(2):  # the second one resumes the run
        with open_loggers(("wandb",), Opening(workdir, CONFIG)) as write:
            write(3, {"loss": 1.5})
    first, logged, finished, again, *_ = wandb
    assert (first["project"], first["name"], first["id"]) == ("mine", "run7", None)
    assert first["config"] == CONFIG
    assert (logged, finished) == ((3, {"loss": 1.5}), "finish")
    assert (again["id"], again["resume"]) == ("id1", "allow")


def test_wandb_ends_after_an_error(wandb, tmp_path):
    with pytest.raises(KeyError), open_loggers(("wandb",), Opening(tmp_path, {})):
        raise KeyError
    assert wandb[-1] == "finish"


def test_mlflow(tmp_path, monkeypatch):
    calls = []

    @contextlib.contextmanager
    def start_run(**how):
        calls.append(how)
        yield types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
        calls.append("end")

    module = types.SimpleNamespace(
        start_run=start_run,
        log_params=lambda values: calls.append(len(values)),
        log_metrics=lambda values, step: calls.append((step, values)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name in sys.modules)
    for _ in range(2):
        with open_loggers(("mlflow",), Opening(tmp_path, CONFIG)) as write:
            write(3, {"loss": 1.5})
    logged = (3, {"loss": 1.5})
    assert calls == [
        {"run_id": None, "run_name": tmp_path.name},
        *(100, 52, logged, "end"),
        {"run_id": "r1", "run_name": tmp_path.name},
        *(logged, "end"),
    ]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing(name, monkeypatch, tmp_path):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{name} is not installed.*'jaxvideo\[{name}\]'"):
        check_loggers((name,), installed=True)
    read_config({"model": {"name": "c3d"}, "loggers": [name]})  # as `evaluate` reads it elsewhere


def test_an_unknown_logger():
    with pytest.raises(UsageError, match=r"allowed are tensorboard, wandb, mlflow\. Did you mean"):
        check_config({"model": {"name": "c3d"}, "loggers": ["tensorbord"]})


def test_only_the_first_process_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "writes", lambda: False)
    with open_loggers(tuple(LOGGERS), Opening(tmp_path, {})) as write:
        write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_several_loggers_get_the_same(tmp_path, monkeypatch):
    """A row is two functions."""
    seen = []

    @contextlib.contextmanager
    def opened(opening):
        yield opening.first_step

    row = loggers.Logger(opened, lambda handle, step, values: seen.append((handle, step)), "json")
    monkeypatch.setitem(LOGGERS, "mine", row)
    with open_loggers(("mine", "mine"), Opening(tmp_path, {}, 4)) as write:
        write(5, {})
    assert seen == [(4, 5), (4, 5)]


def test_steps(monkeypatch):
    """Means over the steps; the first step and pauses do not count for the speed."""
    now, records = [0.0], []
    monkeypatch.setattr(loggers.time, "perf_counter", lambda: now[0])
    log = log_steps(lambda *record: records.append(record), lambda step: step / 100, 2, 8)
    for step, at, waited in ((1, 100.0, 90.0), (2, 102.0, 0.5), (3, 103.0, 0.5), (4, 105.0, 0.25)):
        now[0] = at
        log.note(step, {"loss": float(step)}, waited)
        if step == 2:
            now[0] = 1000.0
            log.resume()
            now[0] = 103.0
            log.resume()  # the clock of the test goes back
    assert records == [
        (
            2,
            {
                "step/loss": 1.5,
                "step/lr": 0.02,
                "step/clips_per_second": 4.0,
                "step/data_wait": 0.25,
            },
        ),
        (
            4,
            {
                "step/loss": 3.5,
                "step/lr": 0.04,
                "step/clips_per_second": 8.0,
                "step/data_wait": 0.375,
            },
        ),
    ]
    log_steps(pytest.fail, pytest.fail, 0, 8).note(1, {"loss": 1.0}, 0.0)
