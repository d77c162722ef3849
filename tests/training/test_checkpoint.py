"""Damaged and foreign checkpoints, and directories that cannot be written."""

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvideo.training import checkpoint
from jaxvideo.training.optim import Optim, make_plateau
from jaxvideo.training.step import TrainState
from jaxvideo.types import CheckpointError
from jaxvideo.weights import tree
from tests.marks import some

# If reading fails, Orbax leaves failed tasks behind. Their warnings would otherwise appear in a
# later test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DESCRIPTION = {"model": {"name": "r3d_18"}, "data": {"next_batch": 8}}


def make_state(scale: float = 1.0, optimizer=None) -> TrainState:
    # Too large to be stored inline in the index of the array storage, like every real kernel.
    kernel = scale * jax.random.normal(jax.random.key(0), (100, 1000))
    params = {"conv1": {"kernel": kernel}, "fc": {"bias": jnp.full(3, scale)}}
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
    plateau = make_plateau(Optim(lr=0.1, schedule="plateau")).init(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={"bn1": {"mean": jnp.full(4, scale)}},
        opt_state=optimizer.init(params),
        plateau=plateau._replace(scale=jnp.float32(0.1 * scale)),
        ema={},
    )


@pytest.fixture(autouse=True)
def leave_nothing():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run directory with the checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("run")
    with checkpoint.open_checkpoints(folder, keep=2) as checkpoints:
        checkpoint.save(checkpoints, make_state(1.0), 4, DESCRIPTION)
        checkpoint.save(checkpoints, make_state(2.0), 8, DESCRIPTION)
    return folder


def restored(folder: Path, like: TrainState | None = None, step: int | None = None) -> TrainState:
    with checkpoint.open_checkpoints(folder, keep=None) as checkpoints:
        step = step or checkpoint.latest_step(checkpoints)
        return checkpoint.restore(checkpoints, step, like or make_state())


def check_equal(found: TrainState, expected: TrainState) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def files(folder: Path) -> list[str]:
    newest = folder / checkpoint.FOLDER / "8"
    return sorted(str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", some([empty, halve, Path.unlink], [halve]))
def test_truncated(saved, tmp_path, damage):
    """If any file is truncated, there is one error with a remedy, or no loss."""
    refused = 0
    for number, name in enumerate(files(saved)):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        damage(folder / checkpoint.FOLDER / "8" / name)
        said = ""
        try:
            check_equal(restored(folder), make_state(2.0))
            variables = tree.flatten(checkpoint.load_variables(folder)[0])
            np.testing.assert_array_equal(variables["params/fc/bias"], np.full(3, 2.0))
        except CheckpointError as error:
            said = str(error)
        if said:
            refused += 1
            assert said.startswith(f"{folder}/checkpoints/8 cannot be read (")
            assert said.endswith("; if it is corrupt, delete it: the run then resumes from step 4")
            shutil.rmtree(folder / checkpoint.FOLDER / "8")
            check_equal(restored(folder), make_state(1.0))
    assert refused >= 4  # the arrays, two indices, the description


def test_the_only_one_damaged(saved, tmp_path):
    shutil.copytree(saved / checkpoint.FOLDER / "8", tmp_path / checkpoint.FOLDER / "8")
    empty(tmp_path / checkpoint.FOLDER / "8/_CHECKPOINT_METADATA")
    with pytest.raises(CheckpointError, match=r"its description is missing.*starts from the beg"):
        checkpoint.load_variables(tmp_path)


def test_a_half_written_one_is_not_picked_up(saved, tmp_path):
    """An incomplete checkpoint, as after SIGKILL during a save, is ignored."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / checkpoint.FOLDER
    shutil.copytree(folder / "8", folder / "12.orbax-checkpoint-tmp")
    shutil.rmtree(folder / "12.orbax-checkpoint-tmp/state/d")
    check_equal(restored(tmp_path), make_state(2.0))
    assert (folder / "12.orbax-checkpoint-tmp").exists()  # its run may still be writing it
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoint.latest_step(checkpoints) == 8
        checkpoint.save(checkpoints, make_state(3.0), 12, DESCRIPTION)
    assert sorted(path.name for path in folder.iterdir()) == ["12", "8"]
    check_equal(restored(tmp_path), make_state(3.0))


def edited(saved: Path, folder: Path, change) -> Path:
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    file = folder / checkpoint.FOLDER / "8/_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    change(content["custom_metadata"])
    file.write_text(json.dumps(content))
    return folder


def test_another_format(saved, tmp_path):
    def change(described):
        described["format"] = 7
        described["versions"]["jaxvideo"] = "9.1"

    folder = edited(saved, tmp_path, change)
    text = r"checkpoints/8 has format 7, written by jaxvideo 9\.1; jaxvideo .* formats 1 to 2"
    for read in (restored, checkpoint.load_variables):
        with pytest.raises(CheckpointError, match=text):
            read(folder)
    check_equal(restored(folder, step=4), make_state(1.0))


def test_a_field_that_did_not_exist_yet(saved, tmp_path):
    """A new field keeps its initial value. Fields of all formats are required."""

    @flax.struct.dataclass
    class Longer(TrainState):
        scale: jax.Array = flax.struct.field(default_factory=lambda: jnp.float32(3.0))

    def fields(state, *without):
        names = [f.name for f in dataclasses.fields(state) if f.name not in without]
        return {name: getattr(state, name) for name in names}

    like = Longer(**fields(make_state()))
    found = restored(saved, like)
    assert float(found.scale) == 3.0
    check_equal(TrainState(**fields(found, "scale")), make_state(2.0))

    shorter = dataclasses.make_dataclass("Shorter", list(fields(like, "params")))
    with checkpoint.open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, shorter(**fields(like, "params")), 8, DESCRIPTION)
    with pytest.raises(CheckpointError, match="missing   params/conv1/kernel"):
        restored(tmp_path, like)


def test_another_optimizer(saved, tmp_path):
    """The error lists changed versions, for instance after an update of Optax."""
    folder = edited(saved, tmp_path, lambda described: described["versions"].update(optax="0.0.1"))
    with pytest.raises(CheckpointError) as caught:
        restored(folder, make_state(optimizer=optax.adam(0.1)))
    assert "(written with optax 0.0.1, here" in str(caught.value)
    assert "missing   opt_state/0/nu/conv1/kernel (100, 1000)" in str(caught.value)
    assert "unknown   opt_state/0/trace/conv1/kernel (100, 1000)" in str(caught.value)


def test_another_model(saved):
    params = {"conv1": {"kernel": jnp.ones((100, 999))}, "fc": {"bias": jnp.ones(3)}}
    with pytest.raises(CheckpointError, match=r"params/conv1/kernel \(100, 1000\), the model has"):
        restored(saved, make_state().replace(params=params))


def test_a_lost_folder(saved, tmp_path):
    """A removed directory is not created again, e.g. below the mount point of a lost disk."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        (tmp_path / checkpoint.FOLDER).rename(tmp_path / "elsewhere")
        with pytest.raises(CheckpointError, match="step 12 cannot be written: the directory does"):
            checkpoint.save(checkpoints, make_state(3.0), 12, DESCRIPTION)
        assert not (tmp_path / checkpoint.FOLDER).exists()
    (tmp_path / "elsewhere").rename(tmp_path / checkpoint.FOLDER)
    check_equal(restored(tmp_path), make_state(2.0))


FULL = """
import resource, sys
from pathlib import Path
from jaxvideo.training import checkpoint
from jaxvideo.training.optim import Optim, make_plateau
from tests.training.test_checkpoint import DESCRIPTION, make_state
with checkpoint.open_checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpoint.save(checkpoints, make_state(3.0), 12, DESCRIPTION)
    except checkpoint.CheckpointError as error:
        sys.exit(str(error))
"""


def test_a_disk_that_takes_no_more(saved, tmp_path):
    """Simulated by a limit on file sizes, which makes writes fail in the same place."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"{tmp_path}/checkpoints: the checkpoint of step 12 cannot be written (")
    assert "File too large" in said
    assert said.endswith("; earlier checkpoints are not affected")
    check_equal(restored(tmp_path), make_state(2.0))
