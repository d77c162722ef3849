"""The structure of the project: allowed imports, and that every config builds."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxvideo.training.config import default_workdir, read_config
from jaxvideo.training.optim import make_optimizer, make_schedule
from jaxvideo.training.step import TrainState, init_variables, make_train_step

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem != "common")

# Allowed imports between the packages of jaxvideo. None: anything.
BASE = {"types", "version", "names", "progress", "startup"}
ALLOWED = {
    "version": set(),
    "names": set(),
    "types": {"names"},
    "progress": {"names"},
    "startup": {"types", "progress"},
    "layers": BASE,
    "precision": {"types", "layers"},
    "models": {*BASE, "layers"},
    "weights": BASE,
    "data": BASE,
    "evaluation": {*BASE, "data"},
    "pretrained": {*BASE, "models", "weights", "__init__"},
    # `network` opens checkpoints of runs and predicts, so far without a package of its own.
    "inference": {*BASE, "layers", "models", "weights", "data", "evaluation"},
    "network": {
        *BASE,
        "models",
        "weights",
        "pretrained",
        "evaluation",
        "inference",
        "training",
    },
    "training": {
        *BASE,
        "precision",
        "layers",
        "models",
        "weights",
        "data",
        "evaluation",
        "inference",
        "pretrained",
    },
    "planning": {*BASE, "precision", "layers", "models", "training"},
    "studies": None,
    "report": None,
    "cli": None,
    "__main__": None,
    "__init__": {"models", "network", "pretrained"},  # inside functions, for the public names
}
# Nothing below imports these.
TOP = {"studies", "report", "cli", "__main__"}
FORBIDDEN = {name: {"jax", "flax", "optax"} for name in ("data", "evaluation", "progress")}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_import_directions():
    wrong = []
    for path in sorted((ROOT / "jaxvideo").rglob("*.py")):
        part = path.relative_to(ROOT / "jaxvideo").parts[0].removesuffix(".py")
        allowed = ALLOWED[part]
        if allowed is None:
            allowed = set(ALLOWED) - (set() if part in TOP else TOP)
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top in FORBIDDEN.get(part, ()):
                wrong.append(f"{path.name}: {part} must not import {top}")
            target = rest.split(".")[0]
            if top != "jaxvideo" or target not in ALLOWED or target == part:
                continue
            if target not in allowed:
                wrong.append(f"{path.name}: {part} must not import {target}")
    assert not wrong, "\n".join(wrong)


# Programs, and files whose calls are still to be replaced by `jaxvideo.progress`.
PRINTS = ("layers/lowerings/onednn_probe.py", "data/motion/folder.py")


def test_the_library_never_prints():
    """It logs and reports progress through `jaxvideo.progress`, which also replaces files."""
    wrong = []
    for path in sorted((ROOT / "jaxvideo").rglob("*.py")):
        name = path.relative_to(ROOT / "jaxvideo").as_posix()
        if name == "progress.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "os.replace", "os.rename") and not name.startswith(PRINTS):
                    wrong.append(f"{name}:{node.lineno}: {called}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [*CONFIGS, ROOT / "configs/common.py"], ids=lambda p: p.stem)
def test_configs_import_only_ml_collections(path):
    extra = {name for name in imports(path) if name.split(".")[0] not in ("ml_collections",)}
    allowed = {"configs", "configs.common", "jaxvideo.training", "jaxvideo.training.schema"}
    assert extra <= {*allowed, "importlib.util"}


def test_data_starts_without_an_accelerator():
    """Loader workers import no JAX, and nothing else that is slow to import."""
    program = (
        "import sys\n"
        "import jaxvideo.data.pipeline, jaxvideo.data.protocol_reader, jaxvideo.data.views\n"
        "import jaxvideo.data.datasets.load\n"
        "slow = {'jax', 'grain', 'tensorflow_datasets', 'skimage', 'PIL'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "import jaxvideo.data.motion.folder, jaxvideo.data.packed.write\n"
        "assert 'jax' not in sys.modules\n"
        "import jaxvideo.evaluation.protocol\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jaxvideo/data").rglob("__init__.py")), ids=lambda p: p.parent.name
)
def test_packages_of_data_import_nothing(path):
    """A loader worker that imports one module does not load its neighbors."""
    assert not list(imports(path))


def load_config(path: Path, argument: str | None):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(argument) if argument is not None else module.get_config()


def config_cases():
    for path in CONFIGS:
        yield pytest.param(path, None, id=path.stem)
        if ":smoke" in path.read_text():
            yield pytest.param(path, "smoke", id=f"{path.stem}-smoke")


def read(path, argument):
    module, config = load_config(path, argument)
    assert f"--config configs/{path.name}" in module.__doc__, "the docstring holds the command"
    values = config.to_dict()
    assert default_workdir(values, path.stem).parts[0] == "runs"
    return read_config(values)


@pytest.mark.parametrize(("path", "argument"), list(config_cases()))
def test_every_config_is_read(path, argument):
    run = read(path, argument)
    steps = run.epoch_steps or 10
    schedule = make_schedule(run.optim, steps_per_epoch=steps, epochs=run.epochs)
    assert float(schedule(steps)) > 0


@pytest.mark.full
@pytest.mark.parametrize(("path", "argument"), list(config_cases()))
def test_every_config_builds_its_train_step(path, argument):
    run = read(path, argument)
    from jaxvideo import create_model

    model = create_model(**run.model, num_classes=10)
    variables = jax.eval_shape(lambda: init_variables(model, run.preprocessing, 0))
    schedule = make_schedule(run.optim, steps_per_epoch=run.epoch_steps or 10, epochs=run.epochs)
    optimizer = make_optimizer(run.optim, schedule, variables["params"])
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.eval_shape(optimizer.init, variables["params"]),
        plateau=None,
    )
    n = 2 * run.model.get("bn_groups", 1)
    batch = {
        "video": jax.ShapeDtypeStruct((n, *run.preprocessing.video_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((n,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((n,), jnp.float32),
        "sample": jax.ShapeDtypeStruct((n, 3), jnp.int32),
    }
    step = make_train_step(model, optimizer, run.preprocessing, flip=run.augment.flip)
    key = jax.eval_shape(lambda: jax.random.key(0))
    after, metrics = jax.eval_shape(step, state, batch, key)
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, after, state)
    assert jax.tree.all(same)
    assert metrics["loss"].shape == ()
