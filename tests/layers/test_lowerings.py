"""Every lowering equals DIRECT: value, input gradient, weight gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxvideo.layers.conv import conv3d
from jaxvideo.layers.geometry import Geometry, Pass
from jaxvideo.layers.lowerings import LOWERINGS, compute, conv2d, fits, resolve, winograd
from jaxvideo.layers.primitive import COMPILES_FOREVER
from jaxvideo.types import Lowering
from tests.layers.zoo_convolutions import zoo
from tests.marks import some

CHANNELS, FEATURES = 4, 6


def grid():
    """Odd and even sizes; no, symmetric and asymmetric padding; clips shorter than the kernel."""
    kernels = [(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3), (3, 7, 7), (2, 3, 2), (5, 1, 1)]
    strides = [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2)]
    for number, (kernel, stride) in enumerate(itertools.product(kernels, strides)):
        size = [(4, 8, 7), (5, 7, 8)][(number + number // 4) % 2]  # every stride has both
        same = tuple((k // 2, k // 2) for k in kernel)
        yield Geometry(kernel, size, stride, same)
        lopsided = tuple((max(k - 2, 0), k // 2 + 1) for k in kernel)
        yield Geometry(kernel, size, stride, lopsided)
    for kernel in [(3, 1, 1), (3, 3, 3), (5, 1, 1)]:
        pads = ((kernel[0] // 2,) * 2, (0, 0), (0, 0))
        yield Geometry(kernel, (1, 5, 6), (1, 1, 1), pads)
    for kernel in [(1, 3, 3), (3, 3, 3)]:  # different strides per axis
        yield Geometry(kernel, (4, 8, 9), (1, 2, 3), tuple((k // 2, k // 2) for k in kernel))
    # Winograd: results of one row or column, and padding wider than the kernel.
    for size, pads in [((3, 3), (0, 0)), ((4, 5), (0, 0)), ((5, 4), (3, 4)), ((1, 2), (1, 1))]:
        yield Geometry((3, 3, 3), (3, *size), (1, 1, 1), ((1, 1), pads, pads))


def possible(geometry, depthwise=False):
    return [
        lowering
        for lowering in LOWERINGS
        # ONEDNN is tested in a subprocess, see test_onednn.py.
        if lowering is not Lowering.ONEDNN and fits(lowering, geometry, depthwise)
    ]


def test_every_lowering_has_a_row():
    assert list(LOWERINGS) == [one for one in Lowering if one is not Lowering.AUTO]


def operands(geometry, channels=CHANNELS, features=FEATURES, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = (
        (2, *geometry.in_size, channels),
        (*geometry.kernel, channels // geometry.groups, features),
        (2, *geometry.out_size, features),
    )
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def all_passes(geometry, depthwise=False):
    return itertools.product(possible(geometry, depthwise), Pass)


def compute_pass(what, lowering, geometry, x, w, g):
    first, second = {
        Pass.FORWARD: (x, w),
        Pass.INPUT_GRADIENT: (g, w),
        Pass.WEIGHT_GRADIENT: (x, g),
    }[what]
    return compute(what, lowering, first, second, geometry)


def check(geometry, arrays, limit, ways):
    """Compares pairs of lowering and pass with DIRECT in one program, which compiles once."""
    reference = [(Lowering.DIRECT, what) for what in Pass]
    # Sorted, so that later runs find the program in the cache.
    ways = sorted({(lowering.name, what.name) for lowering, what in ways})
    ways = [(Lowering[lowering], Pass[what]) for lowering, what in ways]
    ways = [way for way in ways if way[0] not in (Lowering.DIRECT, Lowering.ONEDNN)]

    @jax.jit
    def run(*arrays):
        return [compute_pass(what, way, geometry, *arrays) for way, what in reference + ways]

    results = list(map(np.asarray, run(*arrays)))
    direct = dict(zip(Pass, results[: len(Pass)], strict=True))
    for (lowering, what), value in zip(ways, results[len(Pass) :], strict=True):
        expected = np.float32(direct[what])
        error, scale = np.abs(np.float32(value) - expected).max(), np.abs(expected).max()
        assert value.dtype == arrays[0].dtype, (lowering, what)
        assert error <= limit * scale, f"{lowering} {what}: {error / scale:.1e}"
    return len({lowering for lowering, _ in ways})


GRID = list(grid())


def resolved(geometry):
    """Yields `(platform, engine, channels, pass, lowering)` of all machines."""
    machines = [("cpu", engine) for engine in ("", "avx2", "avx512", "bfloat16")]
    machines += [("tpu", ""), ("gpu", "")]
    for (platform, engine), what, channels in itertools.product(machines, Pass, (3, 64, 128)):
        chosen = resolve(platform, what, geometry, channels, channels, engine=engine)
        yield platform, engine, channels, what, chosen


def reached(geometry):
    """Yields the results of `fits` and `resolve` for a geometry."""
    yield from possible(geometry)
    yield from resolved(geometry)


def chosen_geometries():
    """Winograd, unequal strides, and few others that together reach all results of the grid."""
    found = {geometry: set(reached(geometry)) for geometry in GRID}
    chosen = GRID[-6:]
    missing = set().union(*found.values()) - set().union(*(found[g] for g in chosen))
    while missing:
        best = max(GRID, key=lambda geometry: len(missing & found[geometry]))
        chosen.append(best)
        missing -= found[best]
    # Some more with other sizes, strides and padding.
    return [*chosen, *GRID[:-6:8]]


DEFAULT = chosen_geometries()


def ids(geometry):
    """A short name of a geometry for `pytest -k`."""
    kernel, size, strides, pads = (
        "x".join(map(str, np.ravel(part)))
        for part in (geometry.kernel, geometry.in_size, geometry.strides, geometry.pads)
    )
    return f"{kernel}-in{size}-stride{strides}-pad{pads}"


@pytest.mark.parametrize(
    "geometry",
    [pytest.param(g, marks=() if g in DEFAULT else pytest.mark.full) for g in GRID],
    ids=ids,
)
def test_lowerings_equal_direct(geometry):
    check(geometry, operands(geometry), 1e-5, all_passes(geometry))


PARTS = 16


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
def test_lowerings_equal_direct_in_the_zoo(part):
    """Every distinct convolution of every network, by all lowerings that `resolve` chooses."""
    for geometry, channels, features in zoo()[part::PARTS]:
        ways = {(chosen, what) for *_, what, chosen in resolved(geometry)}
        check(geometry, operands(geometry, channels, features), 1e-5, ways)


def test_the_grid_is_large():
    every = [*GRID, *(geometry for geometry, _, _ in zoo())]
    assert sum(len(possible(geometry)) - 1 for geometry in every) >= 300


BFLOAT16 = [
    pytest.param(g, marks=() if k % 7 == 0 else pytest.mark.full) for k, g in enumerate(GRID[::9])
]


@pytest.mark.parametrize("geometry", BFLOAT16, ids=ids)
def test_bfloat16(geometry):
    # The result of DIRECT is also rounded to 8 bits.
    check(geometry, operands(geometry, dtype=jnp.bfloat16), 1e-2, all_passes(geometry))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "kernel", some([(3, 3, 3), (1, 3, 3), (3, 1, 1), (5, 1, 1), (2, 3, 4)], [(3, 3, 3), (2, 3, 4)])
)
def test_depthwise(kernel, stride):
    pads = tuple((k // 2, (k - 1) // 2) for k in kernel)
    geometry = Geometry(kernel, (4, 7, 6), (1, stride, stride), pads, groups=5)
    assert check(geometry, operands(geometry, 5, 5), 1e-5, all_passes(geometry, True)) == 2


@pytest.mark.parametrize(("groups", "channels", "features"), [(3, 6, 9), (4, 64, 32), (6, 6, 12)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", some([(3, 3, 3), (1, 3, 3), (1, 1, 1)], [(1, 3, 3)]))
def test_grouped(kernel, stride, groups, channels, features):
    pads = tuple((k // 2, (k - 1) // 2) for k in kernel)
    geometry = Geometry(kernel, (4, 7, 6), (1, stride, stride), pads, groups)
    ways = all_passes(geometry)
    assert check(geometry, operands(geometry, channels, features), 1e-5, ways) == 1


@pytest.mark.full
def test_many_blocks(monkeypatch):
    """The cases above are one block. Here a block is a row, then an image."""
    geometry = Geometry((3, 3, 3), (4, 8, 6), (1, 1, 1), ((1, 1),) * 3)
    arrays = operands(geometry)
    for size in (1, 2000, 20000):
        monkeypatch.setattr(conv2d, "_UNFOLDED_BYTES", size)
        monkeypatch.setattr(winograd, "_TRANSFORMED_BYTES", size)
        check(geometry, arrays, 1e-5, all_passes(geometry))
    strided = Geometry((1, 3, 3), (6, 9, 8), (1, 2, 2), ((0, 0), (1, 1), (0, 1)))
    for size in (1, 2000):
        monkeypatch.setattr(conv2d, "_UNFOLDED_BYTES", size)
        check(strided, operands(strided), 1e-5, all_passes(strided))
        check(strided, operands(strided, channels=40), 1e-5, all_passes(strided))


def test_resolve_is_a_table():
    def choice(
        platform,
        kernel,
        what=Pass.FORWARD,
        size=28,
        channels=64,
        stride=1,
        groups=1,
        features=None,
    ):
        pads = tuple((k // 2, k // 2) for k in kernel)
        geometry = Geometry(kernel, (8, size, size), (1, stride, stride), pads, groups)
        return resolve(platform, what, geometry, channels, features or channels)

    few = {"what": Pass.WEIGHT_GRADIENT, "channels": 64, "features": 16}
    assert choice("cpu", (3, 1, 1), **few) is Lowering.TIME_FROM_CHANNELS
    assert choice("cpu", (3, 1, 1), **{**few, "features": 32}) is Lowering.FOLD_SPACE
    stem = {"what": Pass.WEIGHT_GRADIENT, "channels": 3, "features": 8, "stride": 2}
    assert choice("cpu", (5, 7, 7), **stem) is Lowering.TIME_FROM_CHANNELS
    assert choice("cpu", (1, 1, 1), Pass.WEIGHT_GRADIENT) is Lowering.MATMUL
    assert choice("cpu", (1, 1, 1), Pass.WEIGHT_GRADIENT, stride=2) is Lowering.FOLD_SPACE
    assert choice("cpu", (1, 3, 3)) is Lowering.WINOGRAD
    assert choice("cpu", (1, 3, 3), channels=16) is Lowering.FOLD_TIME
    assert choice("cpu", (1, 3, 3), stride=2) is Lowering.FOLD_TIME
    assert choice("cpu", (3, 1, 1)) is Lowering.FOLD_SPACE
    assert choice("cpu", (3, 3, 3), size=14) is Lowering.TIME_TO_CHANNELS
    assert choice("cpu", (3, 3, 3), size=7) is Lowering.UNFOLD
    assert choice("cpu", (3, 3, 3), stride=2, size=56) is Lowering.UNFOLD
    assert choice("cpu", (1, 3, 3), Pass.WEIGHT_GRADIENT) is Lowering.WINOGRAD
    assert choice("cpu", (1, 3, 3), Pass.WEIGHT_GRADIENT, channels=32) is Lowering.FOLD_TIME
    assert choice("cpu", (3, 3, 3), channels=3) is Lowering.UNFOLD
    assert choice("cpu", (3, 3, 3), Pass.WEIGHT_GRADIENT, size=14) is Lowering.WINOGRAD
    assert choice("cpu", (3, 3, 3), groups=64) is Lowering.SHIFT
    assert choice("cpu", (3, 3, 3), groups=32) is Lowering.GROUP_BY_GROUP
    assert choice("tpu", (3, 3, 3), groups=64) is Lowering.SHIFT
    assert choice("tpu", (3, 3, 3), Pass.WEIGHT_GRADIENT, groups=64) is Lowering.DIRECT
    assert choice("tpu", (5, 1, 1), Pass.WEIGHT_GRADIENT, groups=64) is Lowering.SHIFT
    assert choice("tpu", (3, 3, 3), Pass.INPUT_GRADIENT, groups=64) is Lowering.SHIFT
    assert choice("tpu", (3, 3, 3), Pass.INPUT_GRADIENT, groups=64, stride=2) is Lowering.DIRECT
    assert choice("tpu", (3, 3, 3), groups=32) is Lowering.DIRECT
    assert choice("cpu", (1, 1, 1)) is Lowering.MATMUL
    assert choice("tpu", (3, 7, 7), channels=3) is Lowering.SPACE_TO_DEPTH
    assert choice("tpu", (3, 3, 3)) is Lowering.SPACE_TO_DEPTH
    assert choice("tpu", (3, 3, 3), channels=128) is Lowering.DIRECT
    assert choice("gpu", (3, 3, 3)) is Lowering.DIRECT


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_what_resolve_takes_can_be_computed(platform):
    for geometry, what in itertools.product(grid(), Pass):
        for channels in (3, 64):
            lowering = resolve(platform, what, geometry, channels, channels)
            assert fits(lowering, geometry, False), (geometry, what)


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"),
    [((3, 3, 3), 1, 1), ((1, 3, 3), 2, 1), ((3, 1, 1), 1, 1), ((1, 1, 1), 1, 1), ((3, 3, 3), 1, 4)],
)
def test_over_two_devices(kernel, stride, groups):
    """Every lowering computes the part of the batch that a device has."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    padding = tuple(k // 2 for k in kernel)
    same = tuple((p, p) for p in padding)
    geometry = Geometry(kernel, (4, 6, 6), (1, stride, stride), same, groups)
    x, w, g = operands(geometry, features=4)

    def run(x, w, g, lowering):
        def convolve(x, w):
            return conv3d(x, w, geometry.strides, padding, groups, lowering=lowering)

        y, pull = jax.vjp(convolve, x, w)
        return y, *pull(g)

    ways = possible(geometry, depthwise=groups == 4)
    if COMPILES_FOREVER:
        ways = [way for way in ways if way is not Lowering.GROUP_BY_GROUP]
    arrays = jax.device_put((x, w, g), (batch, whole, batch))
    results = {way.name: jax.jit(run, static_argnums=3)(*arrays, way) for way in ways}
    assert len(results) > 1
    expected = results.pop("DIRECT")
    for way, result in results.items():
        for value, right, sharding in zip(result, expected, (batch, batch, whole), strict=True):
            assert value.sharding.is_equivalent_to(sharding, 5), way
            np.testing.assert_allclose(value, right, atol=1e-5 * np.abs(right).max(), err_msg=way)
