"""Tests in a subprocess if oneDNN can be used on this machine.

A convolution that oneDNN rejects ends the process, and the interface is internal to XLA. Therefore
a subprocess first runs every kind of call that `onednn` makes and compares the results with
NumPy's. The result of the test is stored in the cache directory, per jaxlib version and CPU.

Environment variable `JAXVIDEO_ONEDNN`: 0 never uses oneDNN; 1 raises an error if it cannot be used;
unset (default) uses it if the test passes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.progress import LOG, write_file
from jaxvideo.startup import cache_directory
from jaxvideo.types import ConfigError

#: Increment it if the test covers more, so that stored results of older tests are not used.
_VERSION = 1
_TIME_LIMIT_S = 180
_DTYPES = ("float32", "bfloat16")
#: oneDNN supports bfloat16 if the CPU has one of the first features, and is fast with one of the
#: others.
_BFLOAT16 = ("avx512bw", "avx_ne_convert")
_FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16")


def engine(dtype: Any) -> str:
    """Returns how oneDNN computes convolutions of this dtype on this machine.

    Returns:
      "avx2" or "avx512" (float32, by the width of the vectors), "bfloat16", or "" if oneDNN
      cannot be used.

    Raises:
      ConfigError: `JAXVIDEO_ONEDNN=1` and oneDNN cannot be used.
    """
    name = np.dtype(dtype).name
    if name not in _DTYPES:
        return ""
    reason = refusal(name)
    if reason:
        if _setting() == "1" and name == "float32":
            raise ConfigError(
                f"JAXVIDEO_ONEDNN=1, but oneDNN cannot be used: {reason}. Unset JAXVIDEO_ONEDNN to "
                "use jaxvideo's implementations"
            )
        return ""
    if name == "bfloat16":
        return name
    return "avx512" if "avx512f" in cpu_features() else "avx2"


def require(platform_name: str, dtype: Any) -> None:
    """Checks that `lowering="onednn"` is possible.

    Raises:
      ConfigError: oneDNN cannot be used for this platform and dtype.
    """
    name = np.dtype(dtype).name
    reason = f"oneDNN computes {' and '.join(_DTYPES)} only" if name not in _DTYPES else ""
    if platform_name != "cpu":
        reason = f"oneDNN runs on CPUs only, and this program is for a {platform_name.upper()}"
    reason = reason or refusal(name)
    if reason:
        raise ConfigError(f"lowering='onednn' with {name}: {reason}. Use lowering='auto'")


def fast_bfloat16() -> bool:
    """Returns True if this CPU multiplies bfloat16 in hardware and oneDNN uses it."""
    return bool(set(_FAST_BFLOAT16) & cpu_features()) and not refusal("bfloat16")


def status() -> dict[str, str]:
    """Returns label and text of each row for a bug report."""
    rows = {}
    for name in _DTYPES:
        reason = refusal(name)
        rows[f"convolution, {name}"] = f"jaxvideo's own ({reason})" if reason else "oneDNN"
    rows["oneDNN test result"] = str(_result_file())
    return rows


@functools.cache
def refusal(name: str) -> str:
    """Returns the reason why oneDNN is not used for a dtype; "" if it is used."""
    reason = _unsupported(name)
    if reason is None:
        reason = _tested(name)
    if reason:
        LOG.info("CPU convolutions in %s: jaxvideo's own (oneDNN: %s)", name, reason)
    else:
        LOG.info("CPU convolutions in %s: oneDNN", name)
    return reason


def _setting() -> str:
    setting = os.environ.get("JAXVIDEO_ONEDNN", "")
    if setting not in ("", "0", "1"):
        raise ConfigError(f"JAXVIDEO_ONEDNN={setting!r}: allowed are 0 and 1, or leave it unset")
    return setting


def _unsupported(name: str) -> str | None:
    """Returns a reason that is known without a test, or None."""
    if _setting() == "0":
        return "switched off by JAXVIDEO_ONEDNN=0"
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return f"jaxlib does not contain it for {sys.platform} on {platform.machine()}"
    if not sys.executable:
        return "no Python executable to test it with"
    if name == "bfloat16" and not set(_BFLOAT16) & cpu_features():
        return "this CPU has no AVX-512"
    return None


@functools.cache
def _cpu_info() -> tuple[str, frozenset[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor(), frozenset()
    first = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    lines = {key.strip(): value.strip() for key, _, value in first}
    return lines.get("model name", ""), frozenset(lines.get("flags", "").split())


def cpu_features() -> frozenset[str]:
    """Returns the CPU's features by their names in Linux; empty if unknown."""
    return _cpu_info()[1]


def _result_file() -> Path:
    model, features = _cpu_info()
    # XLA_FLAGS can change the behavior of the custom calls.
    key = json.dumps([model, sorted(features), os.environ.get("XLA_FLAGS", "")])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return (
        cache_directory()
        / "onednn"
        / f"{_VERSION}-jaxlib-{metadata.version('jaxlib')}-{digest}.json"
    )


def _tested(name: str) -> str:
    path = _result_file()
    try:
        known = json.loads(path.read_text())
        if isinstance(known[name], str):
            return known[name]
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    reason, final = _probe(name)
    if reason:
        LOG.warning(
            "oneDNN is not used for %s: %s; slower implementations are used instead", name, reason
        )
    if final:
        known = known if isinstance(known, dict) else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(known | {name: reason}))
        except OSError as error:
            LOG.warning(
                "%s cannot be written (%s): oneDNN is tested again at each start. Set "
                "JAXVIDEO_CACHE to a writable directory",
                path,
                error.strerror,
            )
    return reason


def _probe(name: str) -> tuple[str, bool]:
    """Returns (reason or "", True if the result should be stored)."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAXVIDEO_ONEDNN": "0",
        # This reduces the time to compile the operations around the calls.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    root = str(Path(__file__).parents[3])
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    program = f"import sys; from {__name__} import main; sys.exit(main({name!r}))"
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"the test took more than {_TIME_LIMIT_S} s", False
    except OSError as error:
        return f"the test cannot be started: {error}", False
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode == 0 and "passed" in lines:
        return "", True
    last = f": {lines[-1].strip()}" if lines else ""
    return f"the test ended with status {done.returncode}{last}", True


# --- The subprocess -----------------------------------------------------------------------


def probe_cases():
    """Yields (kernel, size, strides, pads, channels, features, groups) for every kind of call."""
    same = ((1, 1), (1, 1), (1, 1))
    yield (3, 3, 3), (4, 9, 8), (1, 1, 1), same, 16, 24, 1
    yield (3, 3, 3), (5, 8, 9), (2, 2, 2), same, 6, 10, 1
    yield (1, 1, 1), (3, 6, 5), (1, 1, 1), ((0, 0),) * 3, 20, 12, 1
    yield (1, 1, 1), (4, 6, 5), (1, 2, 2), ((0, 0),) * 3, 8, 16, 1
    yield (3, 7, 7), (4, 16, 17), (1, 2, 2), ((1, 1), (2, 3), (3, 2)), 3, 16, 1
    yield (3, 1, 1), (6, 5, 4), (2, 1, 1), ((1, 1), (0, 0), (0, 0)), 8, 8, 1
    yield (3, 3, 3), (4, 8, 9), (1, 2, 2), same, 24, 24, 24
    yield (5, 1, 1), (6, 5, 6), (1, 1, 1), ((2, 2), (0, 0), (0, 0)), 24, 24, 24
    yield (3, 3, 3), (4, 7, 8), (1, 1, 1), same, 16, 32, 4


def reference(x, w, g, geometry):
    """Computes (forward, input gradient, weight gradient) in NumPy, tap by tap."""
    x, w, g = (np.asarray(array, np.float64) for array in (x, w, g))
    kernel, c, features = w.shape[:3], w.shape[3], w.shape[4]
    groups = geometry.groups
    widths = ((0, 0), *geometry.pads, (0, 0))
    w = w.reshape(*kernel, c, groups, features // groups)
    g = g.reshape(*g.shape[:-1], groups, -1)
    xs = np.pad(x, widths)
    xs = xs.reshape(*xs.shape[:-1], groups, c)
    y, dx, dw = np.zeros_like(g), np.zeros_like(xs), np.zeros_like(w)
    for tap in np.ndindex(*kernel):
        under = (
            slice(None),
            *(
                slice(first, first + (n - 1) * stride + 1, stride)
                for first, n, stride in zip(tap, geometry.out_size, geometry.strides, strict=True)
            ),
        )
        y += np.einsum("nthwgc,cgd->nthwgd", xs[under], w[tap])
        dx[under] += np.einsum("nthwgd,cgd->nthwgc", g, w[tap])
        dw[tap] = np.einsum("nthwgc,nthwgd->cgd", xs[under], g)
    inside = tuple(slice(b, n - e) for n, (b, e) in zip(dx.shape[:4], widths[:4], strict=True))
    return y.reshape(*y.shape[:4], -1), dx[inside].reshape(x.shape), dw.reshape(*kernel, c, -1)


def differences(cases, dtype: str, most_taps: int = 3) -> list[str]:
    """Runs all passes and epilogues of all cases in one program.

    Args:
      cases: as from `probe_cases`.
      dtype: "float32" or "bfloat16".
      most_taps: kernels with more taps are tested without the weight gradient. It is the same
        product for each tap, and compiling many slices takes most of the time.

    Returns:
      One line per result that differs from NumPy's.
    """
    import jax
    import jax.numpy as jnp

    from jaxvideo.layers.geometry import Geometry
    from jaxvideo.layers.lowerings import onednn

    random = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return (scale * random.standard_normal(shape)).astype(jnp.dtype(dtype))

    def sigmoid(y):
        return 1 / (1 + np.exp(-y))

    cases, operands, expected = list(cases), [], []
    geometries = [Geometry(*case[:4], case[6]) for case in cases]
    for case, geometry in zip(cases, geometries, strict=True):
        kernel, size, _, _, channels, features, groups = case
        inputs = math.prod(kernel) * channels // groups
        x = normal(2, *size, channels)
        w = normal(*kernel, channels // groups, features, scale=inputs**-0.5)
        g, bias = normal(2, *geometry.out_size, features), normal(features)
        operands.append((x, w, g, bias))
        y, dx, dw = reference(x, w, g, geometry)
        shifted = y + np.float64(bias)
        expected.append(
            {
                "forward": y,
                "input gradient": dx,
                "bias": shifted,
                "relu": np.maximum(y, 0),
                "bias, relu": np.maximum(shifted, 0),
                "bias, sum": shifted + np.float64(g),
                "bias, sum, relu": np.maximum(shifted + np.float64(g), 0),
                "bias, swish": shifted * sigmoid(shifted),
                "bias, sigmoid": sigmoid(shifted),
                "weight gradient": dw,
            }
        )

    @jax.jit
    def run(operands):
        results = []
        for (x, w, g, bias), geometry in zip(operands, geometries, strict=True):

            def fused(bias=None, residual=None, activation="", x=x, w=w, geometry=geometry):
                return onednn.convolution(x, w, geometry, bias, residual, activation)

            result = {
                "forward": onednn.forward(x, w, geometry),
                "input gradient": onednn.input_gradient(g, w, geometry),
                "bias": fused(bias),
                "relu": fused(activation="relu"),
                "bias, relu": fused(bias, activation="relu"),
                "bias, sum": fused(bias, g),
                "bias, sum, relu": fused(bias, g, "relu"),
                "bias, swish": fused(bias, activation="swish"),
                "bias, sigmoid": fused(bias, activation="sigmoid"),
            }
            if geometry.groups == 1 and math.prod(geometry.kernel) <= most_taps:
                result["weight gradient"] = onednn.weight_gradient(x, g, geometry)
            results.append(result)
        return results

    limit = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    wrong = []
    for case, results, wanted in zip(cases, run(operands), expected, strict=True):
        for what, value in results.items():
            error = np.abs(np.float64(value) - wanted[what]).max() / np.abs(wanted[what]).max()
            if not error <= limit:
                wrong.append(f"{what} of {case} differs by {error:.1e} of the largest value")
    return wrong


def main(dtype: str) -> int:
    """Prints "passed", or the first difference, and returns the exit status."""
    wrong = differences(probe_cases(), dtype)
    print(wrong[0] if wrong else "passed", flush=True)
    return 3 if wrong else 0
