"""Eight fake CPU devices, one compilation cache, and video files made once per session."""

import gc
import importlib.metadata
import mmap
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from absl import flags

# Must run before JAX starts: the sharding tests compare a step on 8 devices with a step on 1.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is spent in XLA's code generator. It runs without LLVM's optimization,
# and with the older emitters if jaxlib has them: a fifth of the time. XLA's own passes still run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("FLAX_PROFILE", "0")  # no names of modules in programs: a fifth of tracing
OLD_EMITTERS = "xla_cpu_use_fusion_emitters"


def known_to_jaxlib(flag: str) -> bool:
    """True if this version of jaxlib has an XLA flag; XLA ends the process at unknown ones.

    jaxlib 0.12 has no such flag any more. Names of former flags remain without the final zero byte.
    """
    folder = Path(importlib.metadata.distribution("jaxlib").locate_file("jaxlib"))
    for library in folder.glob("libjax_common*"):
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return content.find(f"\0{flag}\0".encode()) >= 0
    return False


GIVEN = os.environ.get("XLA_FLAGS", "")
if OLD_EMITTERS not in GIVEN and known_to_jaxlib(OLD_EMITTERS):  # workers inherit the variable
    os.environ["XLA_FLAGS"] = f"{GIVEN} --{OLD_EMITTERS}=false".strip()

flags.FLAGS.mark_as_parsed()


# Tracing creates millions of long-lived objects. Scanning them again takes a sixth of the time.
gc.set_threshold(200_000, 20, 20)


def pytest_configure(config):
    """Stores compiled programs, frame tables and rendered videos in .pytest_cache.

    All workers, the processes that tests start, and later runs use them. This hook runs before JAX
    and the workers start.
    """
    if not hasattr(config, "workerinput") and (cache := getattr(config, "cache", None)):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("xla")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        os.environ.setdefault("JAXVIDEO_CACHE", str(cache.mkdir("jaxvideo")))


def pytest_collection_modifyitems(config, items):
    """Deselects tests marked `full` unless `-m` or their own names select them."""
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if "full" in item.keywords]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if "full" not in item.keywords]


@pytest.fixture(autouse=True, scope="module")
def small_memory():
    """Clears JAX's caches of a worker that uses more than 2 GB, after each test file."""
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    if pages * 4096 > 2e9 and (jax := sys.modules.get("jax")):
        jax.clear_caches()


@pytest.fixture(autouse=True)
def same_compilation_cache():
    """Restores the compilation cache: a run in this process may move it or switch it off."""
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    before = jax.config.jax_compilation_cache_dir
    yield
    if jax.config.jax_compilation_cache_dir != before:
        jax.config.update("jax_compilation_cache_dir", before)
        reset_cache()  # JAX keeps the directory, or its absence, of the first compilation


def write_video(
    path: Path,
    frames: int = 30,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (48, 64),
    gop: int = 12,
    b_frames: int = 0,
    pts: list[int] | None = None,
    rotation: int = 0,
) -> Path:
    """Writes a video in which frame k has gray level 8 k (mod 256) and one white corner."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, 25)
        if codec == "libx264":
            stream.options = {"crf": "1", "preset": "veryfast"}
        else:
            stream.options = {"qmin": "1", "qmax": "1"}
        if rotation:
            stream.set_display_rotation(rotation)
        for k in range(frames):
            picture = np.full((*size, 3), 8 * k % 256, np.uint8)
            picture[:16, :16] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = k if pts is None else pts[k]
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """30 frames, 25 fps, 48 x 64, a key frame every 12."""
    return write_video(tmp_path_factory.mktemp("video") / "plain.mp4")


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parent.parent
