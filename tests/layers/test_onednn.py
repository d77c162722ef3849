"""oneDNN on CPUs: values, machines without it, several devices, fused calls."""

import itertools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvideo.layers import conv3d
from jaxvideo.layers.geometry import Geometry, Pass
from jaxvideo.layers.lowerings import compute, fits, onednn_probe, resolve
from jaxvideo.types import ConfigError, Lowering
from tests.layers.zoo_convolutions import zoo
from tests.marks import some

ROOT = Path(__file__).parents[2]


def usable(dtype="float32") -> bool:
    return bool(onednn_probe.engine(dtype))


needs_onednn = pytest.mark.skipif(not usable(), reason="no oneDNN for float32 on this machine")


def operands(kernel=(3, 3, 3), size=(3, 6, 5), channels=4, features=8, groups=1, batch=2):
    random = np.random.default_rng(0)
    return (
        jnp.asarray(random.standard_normal((batch, *size, channels)), jnp.float32),
        jnp.asarray(random.standard_normal((*kernel, channels // groups, features)), jnp.float32),
    )


def close(results, expected, limit=1e-5):
    for value, wanted in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert value.shape == wanted.shape
        assert np.abs(value - wanted).max() <= limit * np.abs(wanted).max()


# --- Every convolution of the zoo, in a subprocess that oneDNN may end ----------------------

PROGRAM = """
import json, sys
from jaxvideo.layers.lowerings.onednn_probe import differences
dtype, cases = sys.argv[1], json.load(sys.stdin)
for start in range(0, len(cases), 25):
    some = [tuple(tuple(map(tuple, v)) if i == 3 else tuple(v) if isinstance(v, list) else v
            for i, v in enumerate(case)) for case in cases[start : start + 25]]
    print(start, some, flush=True)
    wrong = differences(some, dtype, most_taps=49)
    if wrong:
        sys.exit("\\n".join(wrong))
print("compared", len(cases))
"""


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_convolution_of_the_registry(dtype):
    if not usable(dtype):
        pytest.skip(f"no oneDNN for {dtype}: {onednn_probe.refusal(dtype)}")
    cases = [
        (g.kernel, g.in_size, g.strides, g.pads, channels, features, g.groups)
        for g, channels, features in zoo(depthwise=True)
        if fits(Lowering.ONEDNN, g, depthwise=False)
    ]
    assert len(cases) > 150
    environment = os.environ | {
        "JAXVIDEO_ONEDNN": "0",
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, dtype],
        input=json.dumps(cases),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "compared" in done.stdout


@pytest.mark.parametrize("case", list(onednn_probe.probe_cases()), ids=str)
def test_the_reference_of_the_probe_is_direct(case):
    kernel, size, strides, pads, channels, features, groups = case
    geometry = Geometry(kernel, size, strides, pads, groups)
    x, w = operands(kernel, size, channels, features, groups)
    g = jnp.asarray(
        np.random.default_rng(1).standard_normal((2, *geometry.out_size, features)), jnp.float32
    )
    expected = [
        compute(what, Lowering.DIRECT, *arrays, geometry)
        for what, arrays in zip(Pass, ((x, w), (g, w), (x, g)), strict=True)
    ]
    close(onednn_probe.reference(x, w, g, geometry), expected)


# --- The choice ---------------------------------------------------------------------------


def test_resolve_with_onednn():
    def choice(engine, kernel, what=Pass.FORWARD, size=28, channels=64, stride=1, groups=1):
        pads = tuple((k // 2, k // 2) for k in kernel)
        geometry = Geometry(kernel, (8, size, size), (1, stride, stride), pads, groups)
        return resolve("cpu", what, geometry, channels, channels, engine=engine)

    dx, dw = Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT
    for engine in ("avx2", "avx512", "bfloat16"):
        assert choice(engine, (3, 1, 1)) is Lowering.ONEDNN
        assert choice(engine, (1, 1, 1)) is Lowering.ONEDNN
        assert choice(engine, (1, 1, 1), dw) is Lowering.ONEDNN
        assert choice(engine, (3, 3, 3), stride=2) is Lowering.ONEDNN
        assert choice(engine, (3, 3, 3), dx, stride=2) is Lowering.ONEDNN
        assert choice(engine, (3, 3, 3), groups=64) is Lowering.ONEDNN
        assert choice(engine, (3, 3, 3), dx, groups=64) is Lowering.ONEDNN
        assert choice(engine, (3, 3, 3), dx, groups=64, stride=2) is Lowering.SHIFT
        assert choice(engine, (3, 3, 3), dw, groups=64) is Lowering.SHIFT
        assert choice(engine, (3, 3, 3), groups=32) is Lowering.ONEDNN
        assert choice(engine, (3, 3, 3), dw, groups=32) is Lowering.GROUP_BY_GROUP
        assert choice(engine, (3, 3, 3), dw, size=7) is Lowering.ONEDNN
    assert choice("avx2", (3, 3, 3)) is Lowering.ONEDNN
    assert choice("avx2", (3, 3, 3), channels=128) is Lowering.WINOGRAD
    assert choice("avx2", (3, 3, 3), dx, channels=128) is Lowering.WINOGRAD
    assert choice("avx2", (3, 3, 3), channels=128, size=7) is Lowering.ONEDNN
    assert choice("avx2", (1, 3, 3), channels=128) is Lowering.ONEDNN
    assert choice("avx512", (3, 3, 3), channels=128) is Lowering.ONEDNN
    assert choice("avx512", (3, 3, 3), dw) is Lowering.WINOGRAD
    assert choice("bfloat16", (3, 3, 3), dw) is Lowering.ONEDNN
    assert resolve("tpu", Pass.FORWARD, Geometry((3,) * 3, (8,) * 3, (1,) * 3, ((1, 1),) * 3), 3, 8)


@needs_onednn
def test_auto_uses_it_on_a_cpu_and_not_in_exports():
    x, w = operands()
    function = jax.jit(lambda x, w: conv3d(x, w, padding=1, bias=w[0, 0, 0, 0], activation="relu"))
    assert "__onednn$convolution" in function.lower(x, w).as_text()
    exported = jax.export.export(function, platforms=("cpu", "tpu"))(x, w)
    assert "__onednn" not in exported.mlir_module()
    close(exported.call(x, w), function(x, w))


@needs_onednn
def test_programs_with_it_are_not_kept(tmp_path):
    """XLA's serialization of oneDNN's calls is undefined behavior; see `jax_internals`."""
    program = f"""
import jax, jax.numpy as jnp
from jaxvideo.layers import conv3d
jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
jax.config.update("jax_raise_persistent_cache_errors", True)
x = jnp.ones((2, 3, 4, 4, 3))
def plain(x): return x + 1
def convolve(x, w): return conv3d(x, w, padding=1)
jax.jit(plain).lower(x).compile()
w = jnp.ones((3, 3, 3, 3, 8))
text = jax.jit(convolve).lower(x, w).compile().as_text()
assert "__onednn$convolution" in text
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = [path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")]
    assert any("plain" in name for name in kept)
    assert not any("convolve" in name for name in kept)


def test_by_name_where_there_is_none(monkeypatch):
    x, w = operands()
    function = jax.jit(lambda x, w: conv3d(x, w, padding=1, lowering="onednn"))
    with pytest.raises(ConfigError, match=r"CPUs only, and this program is for a TPU"):
        function.trace(x, w).lower(lowering_platforms=("tpu",))
    half = x.astype(jnp.float16), w.astype(jnp.float16)
    with pytest.raises(ConfigError, match=r"float16: oneDNN computes float32 and bfloat16 only"):
        function(*half)
    monkeypatch.setattr(onednn_probe, "refusal", lambda name: "no such library")
    with pytest.raises(ConfigError, match=r"lowering='onednn' with float32: no such library"):
        jax.jit(lambda x, w: conv3d(x, w, padding=2, lowering="onednn"))(x, w)


def test_by_name_for_a_convolution_that_it_does_not_compute():
    x, w = operands(kernel=(1, 3, 3))
    with pytest.raises(ConfigError, match=r"lowering='onednn' cannot compute a 1x3x3 kernel"):
        conv3d(x, w, padding=((2, 2), (1, 1), (1, 1)), lowering="onednn")


# --- Machines without it ------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine without a stored test result."""
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXVIDEO_ONEDNN", raising=False)
    monkeypatch.setattr(onednn_probe, "_cpu_info", lambda: ("a CPU", frozenset({"avx2"})))
    monkeypatch.setattr(onednn_probe.sys, "platform", "linux")
    monkeypatch.setattr(onednn_probe.platform, "machine", lambda: "x86_64")
    refusal = onednn_probe.refusal
    monkeypatch.setattr(onednn_probe, "refusal", refusal.__wrapped__)
    return monkeypatch


def interpreter(path: Path, body: str) -> str:
    """A program that replaces Python in the subprocess."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo could not create a primitive >&2; kill -ILL $$", r"status -4: could not create"),
        ("echo 'forward of x differs by 0.5'; exit 3", r"status 3: forward of x differs by 0.5"),
        ("exit 0", r"ended with status 0"),
    ],
)
def test_a_probe_that_fails_is_one_warning_and_is_remembered(fresh, tmp_path, caplog, body, reason):
    fresh.setattr(onednn_probe.sys, "executable", interpreter(tmp_path / "python", body))
    with caplog.at_level(logging.WARNING, "jaxvideo"):
        assert onednn_probe.engine("float32") == ""
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "oneDNN is not used for float32" in warning.getMessage()
    with pytest.raises(ConfigError, match=reason):
        onednn_probe.require("cpu", "float32")
    # The next process reads the stored result.
    fresh.setattr(onednn_probe, "_probe", lambda name: pytest.fail("probed again"))
    assert onednn_probe.engine("float32") == ""
    assert "jaxvideo's own" in onednn_probe.status()["convolution, float32"]


def test_a_probe_that_hangs_is_stopped(fresh, tmp_path, caplog):
    fresh.setattr(onednn_probe.sys, "executable", interpreter(tmp_path / "python", "exec sleep 60"))
    fresh.setattr(onednn_probe, "_TIME_LIMIT_S", 0.2)
    assert onednn_probe.engine("float32") == ""
    assert "took more than 0.2 s" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.json")), "a timeout is not a final result"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"float32": 3}', "null"])
def test_a_damaged_result_is_tested_again(fresh, content):
    path = onednn_probe._result_file()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    fresh.setattr(onednn_probe, "_probe", lambda name: ("", True))
    assert onednn_probe.engine("float32") == "avx2"
    assert json.loads(path.read_text()) == {"float32": ""}


def test_a_cache_that_cannot_be_written(fresh, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    fresh.setenv("JAXVIDEO_CACHE", str(tmp_path / "file" / "cache"))
    fresh.setattr(onednn_probe, "_probe", lambda name: ("", True))
    assert onednn_probe.engine("float32") == "avx2"
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


def test_the_environment_variable(fresh):
    fresh.setattr(onednn_probe, "_probe", lambda name: pytest.fail("probed"))
    fresh.setenv("JAXVIDEO_ONEDNN", "0")
    assert onednn_probe.engine("float32") == ""
    with pytest.raises(ConfigError, match="switched off by JAXVIDEO_ONEDNN=0"):
        onednn_probe.require("cpu", "float32")
    fresh.setenv("JAXVIDEO_ONEDNN", "yes")
    with pytest.raises(ConfigError, match="'yes': allowed are 0 and 1"):
        onednn_probe.engine("float32")
    fresh.setenv("JAXVIDEO_ONEDNN", "1")
    fresh.setattr(onednn_probe.platform, "machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match=r"ONEDNN=1, but .* jaxlib does not contain it for"):
        onednn_probe.engine("float32")
    fresh.delenv("JAXVIDEO_ONEDNN")
    assert onednn_probe.engine("float32") == ""


def test_bfloat16_needs_the_hardware(fresh):
    fresh.setattr(onednn_probe, "_probe", lambda name: ("", True))
    for features, engine, fast in [
        ({"avx2"}, "", False),
        ({"avx512bw"}, "bfloat16", False),
        ({"avx512bw", "avx512_bf16"}, "bfloat16", True),
        ({"avx512bw", "amx_bf16"}, "bfloat16", True),
    ]:
        fresh.setattr(onednn_probe, "_cpu_info", lambda f=features: ("a CPU", frozenset(f)))
        assert onednn_probe.engine("bfloat16") == engine
        assert onednn_probe.fast_bfloat16() is fast
    assert onednn_probe.engine("float16") == ""


# --- Several devices ----------------------------------------------------------------------


@needs_onednn
@pytest.mark.parametrize("devices", some([1, 2, 4, 8], [8]))
def test_a_sharded_batch_stays_sharded(devices):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = NamedSharding(mesh, P("data"))
    whole = NamedSharding(mesh, P())
    x, w = operands(size=(3, 8, 8), batch=8)
    bias = w[0, 0, 0, 0]
    depthwise = operands(channels=8, features=8, groups=8)[1]

    def loss(x, w, depthwise, lowering):
        # A strided and a plain convolution, a depthwise one, 1x1x1, and a fused call.
        y = conv3d(x, w, (1, 2, 2), 1, lowering=lowering)
        y = conv3d(y, depthwise, padding=1, groups=8, lowering=lowering)
        z = conv3d(y, w[:1, :1, :1].repeat(2, 3), lowering=lowering)
        z = conv3d(z, w.repeat(2, 3), padding=1, lowering=lowering)
        return jnp.sin(z / 100).sum()

    def step(x, w, depthwise, lowering="onednn"):
        y = conv3d(x, w, padding=1, bias=bias, activation="relu", lowering=lowering)
        y = conv3d(y, depthwise, padding=1, groups=8, residual=y, lowering=lowering)
        return y, jax.grad(loss, argnums=(0, 1, 2))(x, w, depthwise, lowering)

    given = jax.device_put(x, sharded), *jax.device_put((w, depthwise), whole)
    compiled = jax.jit(step).lower(*given).compile()
    text = compiled.as_text()
    assert "__onednn$convolution" in text
    assert "__onednn$matmul" in text
    assert "all-gather" not in text
    assert ("all-reduce" in text) == (devices > 1)
    y, gradients = compiled(*given)
    if devices > 1:
        assert y.sharding.spec[0] == gradients[0].sharding.spec[0] == "data"
    expected = jax.jit(step, static_argnums=3)(x, w, depthwise, "direct")
    close((y, gradients), expected, 2e-5)


@needs_onednn
def test_inside_shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, w = operands(batch=4)

    def local(x, w):
        y = conv3d(x, w, padding=1, lowering="onednn")
        dw = jax.grad(lambda w: (conv3d(x, w, padding=1, lowering="onednn") ** 2).sum())(w)
        return y, dw[None]

    mapped = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=False
        )
    )
    y, dw = mapped(x, w)
    close(y, conv3d(x, w, padding=1, lowering="direct"))
    direct = jax.grad(lambda w: (conv3d(x, w, padding=1, lowering="direct") ** 2).sum())(w)
    close(dw.sum(0), direct)


# --- Epilogues ----------------------------------------------------------------------------


FUSED = list(itertools.product([False, True], [False, True], ["", "relu", "sigmoid", "swish"]))
# Together they have every value, and every pair of values of the first two.
FUSED_DEFAULT = [
    (False, False, ""),
    (True, False, "swish"),
    (False, True, ""),
    (True, True, "relu"),
]


@pytest.mark.parametrize("case", some(FUSED, FUSED_DEFAULT), ids=str)
def test_fused_calls_and_their_derivatives(case):
    with_bias, with_residual, activation = case
    x, w = operands()
    random = np.random.default_rng(3)
    bias = jnp.asarray(random.standard_normal(8), jnp.float32) if with_bias else None
    residual = jnp.asarray(random.standard_normal((2, 3, 6, 5, 8)), jnp.float32)
    given = {"x": x, "w": w, "bias": bias, "residual": residual if with_residual else None}

    def fused(given):
        return conv3d(
            given["x"],
            given["w"],
            padding=1,
            bias=given["bias"],
            residual=given["residual"],
            activation=activation,
        )

    def separate(given):
        y = conv3d(given["x"], given["w"], padding=1, lowering="direct")
        for name in ("bias", "residual"):
            y = y if given[name] is None else y + given[name]
        functions = {"": lambda y: y, "relu": jax.nn.relu}
        return (functions | {"sigmoid": jax.nn.sigmoid, "swish": jax.nn.swish})[activation](y)

    def everything(function):
        def loss(given):
            return jnp.sin(function(given)).sum()

        tangent = jax.tree.map(jnp.cos, given)
        per_clip = {"x": 0, "w": None, "bias": None, "residual": 0}
        axes = {name: axis for name, axis in per_clip.items() if given[name] is not None}
        some = {name: given[name] for name in axes}

        def one(some):
            clip = {name: some[name][None] if axes[name] == 0 else some[name] for name in axes}
            return function({**dict.fromkeys(given), **clip})[0]

        return {
            "value": function(given),
            "grad": jax.grad(loss)(given),
            "jvp": jax.jvp(function, (given,), (tangent,)),
            "of a gradient": jax.jvp(jax.grad(loss), (given,), (tangent,)),
            "vmap": jax.vmap(one, in_axes=(axes,))(some),
        }

    results, expected = jax.jit(everything, static_argnums=0)(fused), everything(separate)
    for name in expected:
        close(results[name], expected[name], 2e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"activation": "gelu"}, r"activation='gelu': allowed are .*'swish'"),
        ({"bias": jnp.zeros(3)}, r"bias has shape \(3,\); it must be \(8,\)"),
        ({"residual": jnp.zeros((2, 3, 6, 5, 4))}, r"residual has shape .* \(2, 3, 6, 5, 8\)"),
    ],
)
def test_bad_epilogues(change, text):
    x, w = operands()
    with pytest.raises(ConfigError, match=text):
        conv3d(x, w, padding=1, **change)
