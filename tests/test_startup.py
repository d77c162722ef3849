"""Process start-up: caches, Ctrl-C, huge pages, and imports."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxvideo import startup
from jaxvideo.data.motion.folder import ensure_motion
from jaxvideo.layers.lowerings import onednn_probe
from jaxvideo.types import ConfigError
from tests.marks import some

ROOT = Path(__file__).parent.parent


@pytest.fixture
def jax_cache():
    """Restores JAX's settings of the compilation cache."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    reset_cache()  # JAX opens the directory at the first compilation and keeps it
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


@pytest.fixture
def no_variables(monkeypatch):
    for name in ("JAXVIDEO_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_cache_directory(no_variables):
    assert startup.cache_directory() == Path("~/.cache/jaxvideo").expanduser()
    no_variables.setenv("XDG_CACHE_HOME", "relative")  # its specification: ignored
    assert startup.cache_directory() == Path("~/.cache/jaxvideo").expanduser()
    no_variables.setenv("XDG_CACHE_HOME", "/x")
    assert startup.cache_directory() == Path("/x/jaxvideo")
    no_variables.setenv("JAXVIDEO_CACHE", "/own")
    assert startup.cache_directory() == Path("/own")
    assert startup.compilation_cache_directory() == Path("/own/xla")
    no_variables.setenv("JAX_COMPILATION_CACHE_DIR", "/programs")
    assert startup.compilation_cache_directory() == Path("/programs")


def test_all_caches_follow_the_variable(no_variables, tmp_path, repository):
    """Compiled programs, the motion data set and oneDNN's test; there is no other place."""
    no_variables.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = tmp_path / "jaxvideo"
    assert startup.compilation_cache_directory().parent == own
    assert onednn_probe._result_file().is_relative_to(own)
    assert ensure_motion(train=8, val=8).is_relative_to(own)
    names = [
        path.name
        for path in (repository / "jaxvideo").rglob("*.py")
        if ".cache" in (text := path.read_text()).replace("functools.cache", "")
        and "~/.cache" in text
    ]
    assert names == ["startup.py"]


def test_programs_are_stored(no_variables, jax_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", None)
    no_variables.setenv("JAXVIDEO_CACHE", str(tmp_path))
    no_variables.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    assert startup.use_compilation_cache() == tmp_path / "xla"
    jax.clear_caches()
    jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
    assert list((tmp_path / "xla").glob("jit*"))


def test_a_directory_chosen_before_is_kept(no_variables, jax_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert startup.use_compilation_cache() == tmp_path / "mine"
    assert startup.use_compilation_cache("") is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_that_cannot_be_written(no_variables, jax_cache, tmp_path):
    """The default directory gives one warning; a directory in the config gives an error."""
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").touch()
    no_variables.setenv("JAXVIDEO_CACHE", str(tmp_path / "file"))
    said = []
    assert startup.use_compilation_cache(warn=said.append) is None
    assert len(said) == 1
    assert "JAXVIDEO_CACHE" in said[0]
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(ConfigError, match=r"cannot be written: .* Name a writable"):
        startup.use_compilation_cache(str(tmp_path / "file" / "cache"))


@contextlib.contextmanager
def started(*command):
    """Starts a process that receives SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# A program that takes XLA several seconds to compile.
_COMPILES = """
import sys
from jaxvideo import startup
grace = float(sys.argv[1]) if sys.argv[1] else None
with startup.interrupts(grace):
    import jax, jax.numpy as jnp
    def slow(x):
        for i in range(4000):
            x = jnp.sin(x[::-1] * i) @ x
        return x
    lowered = jax.jit(slow).lower(jnp.ones((4, 4)))
    print("compiling", flush=True)
    with startup.abortable() if grace is None else startup.contextlib.nullcontext():
        lowered.compile()
    print("compiled", flush=True)
"""


@pytest.mark.parametrize("grace", ["", "0.5"], ids=["abortable", "grace"])
@pytest.mark.parametrize("times", some([1, 3], [1]))
def test_ctrl_c_ends_a_compilation(grace, times):
    with started("-c", _COMPILES, grace) as process:
        assert process.stdout.readline() == "compiling\n"
        time.sleep(0.3)
        sent = time.monotonic()
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=60)
        assert time.monotonic() - sent < 2
        assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("time.sleep(30)", (130, "interrupted\n")),
        # The program's own handler takes precedence, as in training.
        ("signal.signal(2, lambda *_: sys.exit(7))\n    time.sleep(30)", (7, "")),
    ],
)
def test_ctrl_c_elsewhere(body, expected):
    program = (
        "import signal, sys, time\nfrom jaxvideo import startup\n"
        f"with startup.interrupts(5.0):\n    print('ready')\n    {body}\n"
    )
    with started("-c", program) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert (process.returncode, stderr) == expected


@pytest.mark.full
def test_ctrl_c_ends_training_that_compiles(tmp_path):
    arguments = [
        *("train.py", "--config=configs/motion.py", f"--workdir={tmp_path / 'run'}"),
        *("--config.data.train_videos=16", "--config.data.val_videos=16"),
        *(f"--config.data.root={tmp_path / 'motion'}", "--config.compilation_cache="),
    ]
    with started(*arguments) as process:
        assert any("compiling ..." in line for line in process.stdout)
        time.sleep(1)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - sent < 2
        assert process.returncode == 130
        assert stderr.splitlines()[-1] == "interrupted"
        assert "Traceback" not in stderr


HEAVY = (
    *("jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "tensorboardX"),
    *("numpy", "cv2", "av", "matplotlib", "sklearn", "torch"),
)


@pytest.mark.parametrize(
    "program",
    [
        "import jaxvideo",
        "import jaxvideo.startup",
        "from jaxvideo import cli; cli.main(['--help'])",
        "from jaxvideo import cli; cli.main(['predict', '--help'])",
    ],
)
def test_nothing_heavy_is_imported(program):
    """`--help` takes 0.1 s. Commands import what they need inside their functions."""
    check = (
        f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


_RESTARTS = """
import json, os, sys
from jaxvideo import startup
print(os.getpid())
sys.stdout.flush()
startup.use_huge_pages(__file__)
print(json.dumps([os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.flags.optimize]))
sys.exit(5)
"""


@pytest.mark.skipif(not startup.huge_pages_available(), reason="no huge pages on request here")
@pytest.mark.parametrize(
    ("variables", "starts", "tunables"),
    [
        ({}, 2, "glibc.malloc.hugetlb=1"),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"},
            2,
            "glibc.malloc.arena_max=8:glibc.malloc.hugetlb=1",
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, 1, "glibc.malloc.hugetlb=0"),
        ({"JAXVIDEO_HUGE_PAGES": "0"}, 1, None),
    ],
)
def test_huge_pages(tmp_path, variables, starts, tunables):
    """One restart, with the same process ID, arguments, options and exit status."""
    script = tmp_path / "script.py"
    script.write_text(_RESTARTS)
    names = ("GLIBC_TUNABLES", "JAXVIDEO_HUGE_PAGES")
    rest = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-O", "script.py", "a b", "--c=*"],
        cwd=tmp_path,
        env={**rest, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    *pids, last = done.stdout.splitlines()
    assert len(pids) == starts
    assert len(set(pids)) == 1
    assert json.loads(last) == [tunables, ["a b", "--c=*"], 1]
    assert done.returncode == 5


def test_no_restart_of_another_program(monkeypatch):
    """A program that imports jaxvideo, such as these tests, is never restarted."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(startup, "huge_pages_available", lambda: True)
    monkeypatch.setattr(os, "execve", lambda *arguments: pytest.fail("restarted"))
    startup.use_huge_pages("jaxvideo")
    startup.use_huge_pages(__file__)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pdb", "-m", "jaxvideo", "data"])
    monkeypatch.setattr(sys, "argv", ["/site/jaxvideo/__main__.py", "-m", "jaxvideo", "data"])
    startup.use_huge_pages("jaxvideo")
