"""Times every distinct convolution of the model zoo with every applicable lowering.

    python benchmarks/conv.py                                   # all models, on this machine
    python benchmarks/conv.py --models r3d_18,r2plus1d_18 --dtype bfloat16
    python benchmarks/conv.py --platform tpu --topology v5e:2x2  # no TPU needed: extra [tpu]

The shapes are found by tracing the models. Prints, per pass (forward, dx, dw) and lowering, the
median time in milliseconds, GFLOP/s (of the plain sum, so Winograd may exceed 100 %) and the share
of this machine's peak for matrix products. For a TPU it prints the compiler's estimate in millions
of cycles. `*` marks the choice of AUTO. `<` marks passes in which AUTO is more than 10 % slower
than the best; these are listed again at the end. `c` is the compile time in seconds.
"""

import argparse
import collections
import os
import re
import time

import numpy as np


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="comma-separated; default: all")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, help="default: each model's own")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--passes", default="forward,dx,dw")
    parser.add_argument("--platform", choices=["tpu"], help="default: the local device")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument(
        "--direct", action="store_true", help="also DIRECT if AUTO never chooses it"
    )
    parser.add_argument("--lowerings", help="comma-separated, e.g. direct,unfold; default: all")
    return parser.parse_args()


options = parse()
if options.platform == "tpu":  # before JAX starts
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}

import jax
import jax.numpy as jnp

from jaxvideo.layers.conv import multiply_adds
from jaxvideo.layers.geometry import Pass
from jaxvideo.layers.lowerings import compute, fits, resolve
from jaxvideo.layers.lowerings.space_to_depth import columns_together
from jaxvideo.models import create_model, list_models, model_entry
from jaxvideo.models.summary import trace
from jaxvideo.types import Lowering


class Device:
    """Measures times on the default device."""

    unit = "ms"

    def __init__(self):
        device = jax.devices()[0]
        self.platform = device.platform
        a = jnp.ones((2048, 2048), options.dtype)
        ms, _ = self.cost(lambda a, b: a @ b, a, a)
        self.peak = 2 * 2048**3 / ms / 1e6
        print(f"{device.device_kind}, peak of a matrix product {self.peak:.0f} GFLOP/s")

    def operand(self, shape):
        values = np.random.default_rng(0).standard_normal(shape, np.float32)
        return jnp.asarray(values, options.dtype)

    def cost(self, function, *operands):
        started = time.perf_counter()
        compiled = jax.jit(function).lower(*operands).compile()
        compile_s = time.perf_counter() - started
        times = []
        for _ in range(7):
            started = time.perf_counter()
            jax.block_until_ready(compiled(*operands))
            times.append(time.perf_counter() - started)
            if sum(times) > 2:
                break
        return 1e3 * float(np.median(times[1:] or times)), compile_s


class TpuCompiler:
    """Estimates cycles by the TPU compiler, for one chip of a topology."""

    unit, platform, peak = "Mcycles", "tpu", None

    def __init__(self):
        from jax.experimental import topologies

        topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
        mesh = jax.sharding.Mesh(np.array(topology.devices[:1]), "x")
        self.sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        print(f"{topology.devices[0].device_kind}, the compiler's estimates")

    def operand(self, shape):
        return jax.ShapeDtypeStruct(shape, options.dtype, sharding=self.sharding)

    def cost(self, function, *operands):
        started = time.perf_counter()
        lowered = jax.jit(function).trace(*operands).lower(lowering_platforms=("tpu",))
        text = lowered.compile().as_text()
        cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
        return cycles / 1e6, time.perf_counter() - started


def as_held(what, function, x, y, w):
    """Returns the function and its operands' shapes, with columns packed as between layers.

    Between SPACE_TO_DEPTH convolutions activations stay packed. Without packed operands, the time
    of a single convolution would include rearrangements that no network needs.
    """
    plain = shapes_of(what, x, y, w)
    held = shapes_of(what, columns_aside(x), columns_aside(y), w)

    def run(*arrays):
        result = function(*(a.reshape(shape) for a, shape in zip(arrays, plain, strict=True)))
        kernel = what is Pass.WEIGHT_GRADIENT
        return result if kernel else result.reshape(columns_aside(result.shape))

    return run, held


def columns_aside(shape):
    together = columns_together(*shape[-2:])
    return (*shape[:-2], shape[-2] // together, together * shape[-1])


def shapes_of(what, x, y, w):
    return {
        Pass.FORWARD: (x, w),
        Pass.INPUT_GRADIENT: (y, w),
        Pass.WEIGHT_GRADIENT: (x, y),
    }[what]


def main() -> None:
    machine = TpuCompiler() if options.platform == "tpu" else Device()
    names = options.models.split(",") if options.models else list_models()
    chosen = {one for one in Lowering if one is not Lowering.DIRECT or options.direct}
    if options.lowerings:
        chosen = set(map(Lowering, options.lowerings.split(",")))
    users = collections.defaultdict(list)
    for name in names:
        frames, *size = model_entry(name).preprocessing.shape
        shape = (options.batch, options.frames or frames, *size)
        clip = jax.ShapeDtypeStruct(shape, jnp.float32)
        for convolution in trace(create_model(name), clip).convolutions:
            users[convolution].append(name)
    print(f"{len(users)} distinct convolutions, batch {options.batch}, {options.dtype}\n")
    misses = []
    for (x, w, geometry), models in users.items():
        y = (x[0], *geometry.out_size, w[-1])
        flops = 2 * multiply_adds(y, w)
        depthwise = geometry.groups == x[-1] == w[-1]
        title = (
            f"{'x'.join(map(str, x))}  kernel {'x'.join(map(str, w))}  strides {geometry.strides}"
            f"  groups {geometry.groups}  ({len(models)} x in {', '.join(sorted(set(models)))})"
        )
        print(title)
        for what in map(Pass, options.passes.split(",")):
            if what is Pass.INPUT_GRADIENT and x[-1] <= 3:
                continue  # networks do not need the input gradient of a stem
            auto = resolve(machine.platform, what, geometry, x[-1], w[-1])
            costs, cells = {}, []
            for lowering in Lowering:
                if lowering is Lowering.AUTO or not fits(lowering, geometry, depthwise):
                    continue
                if lowering not in chosen and lowering is not auto:
                    continue

                def run(a, b, lowering=lowering, what=what, geometry=geometry):
                    return compute(what, lowering, a, b, geometry)

                shapes = shapes_of(what, x, y, w)
                if lowering is Lowering.SPACE_TO_DEPTH and machine.platform == "tpu":
                    run, shapes = as_held(what, run, x, y, w)
                operands = [machine.operand(shape) for shape in shapes]
                costs[lowering], compile_s = machine.cost(run, *operands)
                cell = f"{lowering.name} {costs[lowering]:.2f}"
                if machine.peak:
                    rate = flops / costs[lowering] / 1e6
                    cell += f" ({rate:.0f}, {100 * rate / machine.peak:.0f} %, c {compile_s:.1f})"
                cells.append(("*" if lowering is auto else "") + cell)
            best = min(costs, key=costs.__getitem__)
            slow = costs[auto] > 1.1 * costs[best]
            if slow:
                misses.append((costs[auto] - costs[best], title, what, auto, best, costs))
            print(f"    {what.value:8}{'  '.join(cells)}{'  <' if slow else ''}", flush=True)
    print(f"\nAUTO is more than 10 % slower than the best in {len(misses)} passes")
    for lost, title, what, auto, best, costs in sorted(misses, key=lambda miss: -miss[0]):
        print(
            f"  {lost:.2f} {machine.unit} lost: {what.value} of {title}: "
            f"{auto.name} {costs[auto]:.2f}, {best.name} {costs[best]:.2f}"
        )


if __name__ == "__main__":
    main()
