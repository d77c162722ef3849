"""The same run on 1, 2, 4 or 8 devices, in one process or two, sharded or not."""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxvideo import create_model
from jaxvideo.training.distributed import together
from jaxvideo.training.parallel import Parallel, check_split, make_layout
from jaxvideo.types import ConfigError, Interrupted

# Every layout compiles its own step, and some start processes.
pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent
STEPS = 20
MODELS = {
    # Compiles in half the time.
    "r2plus1d": (
        {
            "name": "r2plus1d",
            "width": 1 / 16,
            "bn_momentum": 0.1,
            "lowering": "direct",
        },
        (8, 32),
    ),
    "slowfast": (
        {
            "name": "slowfast_r50",
            "width": 1 / 8,
            "blocks": [1, 1, 1, 1],
            "bn_momentum": 0.1,
        },
        (8, 32),
    ),
}


def start(model, devices, steps, processes=None, network=None, **parallel):
    """Starts a worker, see `layout_worker`. `network` replaces arguments of the model."""
    arguments, clip = MODELS[model]
    network = {**arguments, "bn_groups": 2, **(network or {})}
    asked = {"model": network, "clip": clip, "parallel": parallel, "steps": steps}
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.training.layout_worker"]
    return subprocess.Popen(
        [*command, json.dumps({**asked, "processes": processes})],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*workers):
    outputs = [worker.communicate(timeout=600) for worker in workers]
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors[-2000:]
    return json.loads(outputs[0][0].splitlines()[-1])


@cache
def alone(model, steps=STEPS):
    return finish(start(model, 1, steps))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("model", MODELS)
def test_eight_devices_learn_as_one(model):
    found = finish(start(model, 8, STEPS))
    np.testing.assert_allclose(found["losses"], alone(model)["losses"], atol=1e-4)
    assert alone(model)["collectives"] == dict.fromkeys(found["collectives"], 0)


@pytest.mark.parametrize("lowering", ["direct", "auto"])
@pytest.mark.parametrize(("groups", "norms_across"), [(8, 0), (2, 11)])
def test_collectives_are_those_of_theory(groups, norms_across, lowering):
    """Gradients and metrics are summed over all devices. If a BN group spans devices, so are the
    sums of all eleven BNs, once per pass. XLA may combine two of these. There is no other
    collective except one gather, of the list of broken videos."""
    network = {"bn_groups": groups, "lowering": lowering}
    found = finish(start("r2plus1d", 8, 1, network=network))["collectives"]
    assert found["all-gather"] <= 1
    assert found["all-to-all"] == found["collective-permute"] == found["reduce-scatter"] == 0
    assert 2 * norms_across + 1 <= found["all-reduce"] <= 2 * norms_across + 2


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_learn_as_one(model):
    port = free_port()
    workers = [
        start(model, 4, STEPS, {"port": port, "count": 2, "index": index}) for index in (0, 1)
    ]
    found = finish(*workers)
    np.testing.assert_allclose(found["losses"], alone(model)["losses"], atol=1e-4)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_process_that_dies_ends_the_other(gone):
    """Within a minute and with an error, also if the coordinator dies."""
    port = free_port()
    workers = [
        start("r2plus1d", 1, 10**6, {"port": port, "count": 2, "index": index}) for index in (0, 1)
    ]
    try:
        for worker in workers:
            assert any(line == "step 1\n" for line in worker.stdout)
        workers[gone].kill()
        _, errors = workers[1 - gone].communicate(timeout=60)
        assert workers[1 - gone].returncode not in (0, None)
        assert errors
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_being_asked_to_stop_is_no_failure(monkeypatch):
    """An agreed stop passes through `together` without ending the process."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Interrupted, match="stopped"), together():
        raise Interrupted("stopped")


@pytest.mark.parametrize(
    ("devices", "parallel"),
    [(8, {"fsdp": True}), (2, {"accumulate": 2, "remat": True})],
    ids=["fsdp", "accumulate"],
)
def test_every_layout_learns_the_same(devices, parallel):
    found = finish(start("r2plus1d", devices, 3, **parallel))
    np.testing.assert_allclose(found["losses"], alone("r2plus1d")["losses"][:3], atol=1e-4)


def test_a_map_too_small_to_be_split():
    """32 rows become 2, too few for two devices."""
    model = create_model("r2plus1d_18", num_classes=5, width=1 / 16)
    with pytest.raises(ConfigError, match=r"conv5_x has 2 in height"):
        check_split(Parallel(split=2), model, (16, 32, 32, 3))
    check_split(Parallel(split=2), model, (16, 64, 64, 3))
    with pytest.raises(ConfigError, match=r"conv5_x has 2 in time"):
        check_split(Parallel(split=2, axis="time"), model, (16, 64, 64, 3))


@pytest.mark.parametrize(
    ("parallel", "text"),
    [
        ({"split": 0}, "split=0"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"axis": "width"}, "height"),
    ],
)
def test_bad_layouts(parallel, text):
    with pytest.raises(ConfigError, match=text):
        Parallel(**parallel)


def test_devices_that_do_not_fit():
    devices = jax.devices()
    with pytest.raises(ConfigError, match=r"batch_size=9: must be a multiple of the 8 devices"):
        make_layout(Parallel(), {"batch_size": 9}, devices)
    with pytest.raises(ConfigError, match=r"batch_size=6.*4 groups of 2"):
        make_layout(Parallel(split=2), {"batch_size": 6}, devices)
    with pytest.raises(ConfigError, match=r"split=3: must divide the 8 devices"):
        make_layout(Parallel(split=3), {}, devices)


def test_large_arrays_are_sharded_along_their_longest_axis():
    layout = make_layout(Parallel(fsdp=True), {"batch_size": 8}, jax.devices())
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 3, 64, 512), np.float32),
        "odd": jax.ShapeDtypeStruct((3, 3, 3, 45, 333), np.float32),
        "bias": jax.ShapeDtypeStruct((512,), np.float32),
    }
    found = {name: s.spec for name, s in layout.state(shapes, True).items()}
    assert found["kernel"] == PartitionSpec(None, None, None, None, "data")
    assert found["odd"] == found["bias"] == PartitionSpec()
    assert all(s.spec == PartitionSpec() for s in layout.state(shapes, False).values())
