"""Memory of the training step: limits, the check, and its advice."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import pytest

from jaxvideo.planning.plan import lowered_step
from jaxvideo.training import memory
from jaxvideo.training.config import load_config, read_config
from jaxvideo.training.memory import Memory, available, check_memory, memory_of, shortage_explained
from jaxvideo.training.parallel import make_layout
from jaxvideo.types import TrainingError

GB = 10**9


def small(batch, **parallel):
    values = load_config("motion", [f"batch_size={batch}", "model.width=0.0625"])
    values["model"]["name"] = "r3d_10"
    values["parallel"] |= parallel
    return read_config(values)


def compiled(run):
    layout = make_layout(run.parallel, {}, jax.devices()[:1])
    step = lowered_step(run, 8, layout)
    return layout, step.state, memory_of(step.lower().compile())


@pytest.mark.full
def test_the_advised_batch_fits(monkeypatch):
    """The estimate is proportional; the compiler confirms it."""
    run = small(64)
    layout, state, needed = compiled(run)
    check_memory(run, needed, state, layout)
    limit = int(0.5 * needed.total)
    monkeypatch.setattr(memory, "available", lambda device: (limit, "a test"))
    with pytest.raises(TrainingError) as caught:
        check_memory(run, needed, state, layout)
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(r"needs [\d.]+ [MG]B per device for a batch of 64 clips; [\d.]+ [MG]B", text)
    assert "config.parallel.accumulate=" in text
    assert "config.model.bn_groups=" in text
    assert "config.parallel.remat=true" in text
    batch = int(re.search(r"config\.batch_size=(\d+)", text)[1])
    assert 16 <= batch < 40
    assert compiled(small(batch))[2].total <= limit


def advised(run, total, held, limit, devices=1):
    return memory.advice(run, Memory(total, 0, 0, 0), held, limit, devices)


def test_advice():
    run = small(64)
    assert "config.batch_size=56," in advised(run, 10 * GB, 2 * GB, 10 * GB)
    assert "config.batch_size=48," in advised(run, 10 * GB, 2 * GB, 10 * GB, devices=16)
    assert "accumulate=2 with config.model.bn_groups=2" in advised(run, 8 * GB, 1, 5 * GB)
    grouped = dataclasses.replace(run, model={**run.model, "bn_groups": 8})
    assert "accumulate=2," in advised(grouped, 8 * GB, 1, 5 * GB)
    assert "batch_size=32" in advised(grouped, 8 * GB, 1, 5 * GB)
    with_remat = small(64, remat=True)
    assert "remat" not in advised(with_remat, 8 * GB, 1, 5 * GB)
    hopeless = advised(run, 10 * GB, 6 * GB, 5 * GB)
    assert hopeless.startswith("Even the smallest batch, 1, does not fit")
    assert "smaller clips" in hopeless


def test_an_accelerator_reports_its_limit():
    device = SimpleNamespace(
        platform="gpu", device_kind="GPU X", memory_stats=lambda: {"bytes_limit": 7}
    )
    assert available(device) == (7, "GPU X")
    device.memory_stats = lambda: None
    assert available(device) is None


def test_the_cpu_has_some_memory():
    limit, what = available(jax.devices()[0])
    assert 10**8 < limit < 10**15
    assert "memory" in what or "limit" in what


def test_errors_of_the_runtime():
    run = small(64)
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"
    )
    with pytest.raises(TrainingError) as caught, shortage_explained(run, "the training step"):
        raise error
    assert "allocating 9 bytes" in str(caught.value)
    assert "config.batch_size (now 64)" in str(caught.value)
    assert "\n" not in str(caught.value)
    with (
        pytest.raises(TrainingError, match=r"eval_batch_size"),
        shortage_explained(run, "validation"),
    ):
        raise error
    with pytest.raises(jax.errors.JaxRuntimeError), shortage_explained(run, "validation"):
        raise jax.errors.JaxRuntimeError("INTERNAL: another error")
