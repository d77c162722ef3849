"""Compares whole networks with torchvision's and pytorchvideo's on a CPU, or estimates them on TPU.

    python benchmarks/models.py [--models r3d_18,s3d] [--rounds 5] [--contenders torch,ours]
    python benchmarks/models.py --passes inference
    python benchmarks/models.py --dtype bfloat16
    python benchmarks/models.py --platform tpu --topology v5e:2x2  # no TPU needed: extra [tpu]

Needs torch (extra [torch]), torchvision and, for SlowFast and X3D, pytorchvideo. The last two can
be installed with `--no-deps`, together with fvcore, iopath and parameterized. Measures the median
time of inference and of a full training step (forward, backward, SGD with momentum, BN statistics)
with batch 2. Every contender has its own process with large memory pages. In each round it makes
one call that is not counted, because the other contenders have displaced its data from the caches,
and two that are counted:

    torch      the faster of its two memory formats, with as many threads as JAX; in bfloat16 also
               the faster of bfloat16 weights and autocast
    ours       lowering AUTO for all convolutions; for inference, weights are folded and cast once
    own        the same without oneDNN (JAXVIDEO_ONEDNN=0)
    plain      lowering DIRECT for all convolutions: `lax.conv_general_dilated`, a plain port

Ratios above 1 mean that "ours" is faster than torch. Memory is the increase of the process's peak
during its first training step. Compile times are those of "ours", for inference and training step.

For a TPU, the compiler estimates the cycles (in millions) of a bf16 training step on one chip, for
a plain port and for "ours". The column "full matrix units" is the number of cycles of the
multiplications alone if the matrix units are fully used.
"""

import argparse
import functools
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

if "tpu" in sys.argv:  # before JAX starts
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
# Otherwise torch's threads would keep the cores busy for a while after each call.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

import numpy as np

# Clip (T, size), and arguments with which our network equals the reference network.
MODELS = {
    "r3d_18": ((16, 112), {}),
    "mc3_18": ((16, 112), {}),
    "r2plus1d_18": ((16, 112), {"mid_channels": "per_block"}),
    "s3d": ((16, 224), {}),
    "slowfast_r50": ((32, 224), {}),
    "x3d_m": ((16, 224), {}),
}
BATCH, CLASSES = 2, 400
TPU_MACS_PER_CYCLE = 4 * 128 * 128  # v5e: four matrix units


def clip_of(name: str) -> np.ndarray:
    t, size = MODELS[name][0]
    return np.random.default_rng(0).standard_normal((BATCH, t, size, size, 3), np.float32)


def torch_contender(
    name: str, dtype: str, training: bool, channels_last: bool, autocast: bool = False
):
    """Returns inference and training step of the reference network, without arguments."""
    del training
    import torch

    from jaxvideo.weights import reference

    package = reference.torchvision()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    clip = torch.from_numpy(clip_of(name)).permute(0, 4, 1, 2, 3).contiguous()
    clip = clip.to(memory_format=layout)
    inputs = clip
    if name == "s3d" or name.endswith("_18"):
        network = getattr(package.models.video, name)(num_classes=CLASSES)
    else:
        with warnings.catch_warnings():  # it uses deprecated features of its dependencies
            warnings.simplefilter("ignore")
            from pytorchvideo.models import hub
        more = {"head_activation": None} if name.startswith("x3d") else {}
        network = getattr(hub, name)(model_num_class=CLASSES, **more)
        if name.startswith("slowfast"):
            slow = clip[:, :, torch.linspace(0, clip.shape[2] - 1, clip.shape[2] // 4).long()]
            inputs = [slow.contiguous(memory_format=layout), clip]
    network = network.to(memory_format=layout)
    if dtype == "bfloat16" and not autocast:
        network = network.to(torch.bfloat16)
        inputs = [x.bfloat16() for x in inputs] if isinstance(inputs, list) else inputs.bfloat16()
    labels = torch.arange(BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def logits():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            # pytorchvideo's SlowFast modifies its input list.
            return network(list(inputs) if isinstance(inputs, list) else inputs)

    def infer():
        network.eval()
        with torch.inference_mode():
            logits()

    def step():
        network.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits().float(), labels).backward()
        optimizer.step()

    return infer, step


def jax_network(name: str, plain: bool, dtype: str = "float32"):
    """Returns model, optimizer and `step(params, stats, moments, clip, labels, key)`."""
    import jax
    import optax

    from jaxvideo import create_model
    from jaxvideo.types import Lowering

    lowering = Lowering.DIRECT if plain else Lowering.AUTO
    arguments = MODELS[name][1]
    model = create_model(name, num_classes=CLASSES, lowering=lowering, dtype=dtype, **arguments)
    optimizer = optax.sgd(0.01, momentum=0.9)

    def loss(params, stats, clip, labels, key):
        variables = {"params": params, "batch_stats": stats}
        (logits, _), updated = model.apply(
            variables, clip, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated["batch_stats"]

    def train_step(params, stats, moments, clip, labels, key):
        gradient, stats = jax.grad(loss, has_aux=True)(params, stats, clip, labels, key)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), stats, moments

    return model, optimizer, train_step


def jax_contender(name: str, dtype: str, training: bool, plain: bool = False, onednn: bool = True):
    """Returns inference, training step, and the seconds to compile each of them."""
    if not onednn:
        os.environ["JAXVIDEO_ONEDNN"] = "0"
    import jax
    import jax.numpy as jnp

    from jaxvideo.models.folding import fold

    model, optimizer, train_step = jax_network(name, plain, dtype)
    clip, labels = jnp.asarray(clip_of(name)), jnp.arange(BATCH)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), clip, train=False))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        fresh = np.ones if path[-1].key in ("scale", "var") else np.zeros
        value = fresh(leaf.shape) if leaf.ndim < 2 else 0.03 * rng.standard_normal(leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    state = [variables["params"], variables["batch_stats"], optimizer.init(variables["params"])]
    rest = clip, labels, jax.random.key(0)
    # The step donates its state, so inference keeps a copy.
    fixed = jax.tree.map(jnp.copy, variables)
    fixed = fixed if plain else fold(model, fixed, clip.shape[1:])
    started = time.perf_counter()
    inference = jax.jit(lambda variables, clip: model.apply(variables, clip, train=False)[0])
    inference = inference.lower(fixed, clip).compile()
    inference_s = time.perf_counter() - started
    if not training:
        return lambda: jax.block_until_ready(inference(fixed, clip)), None, inference_s, 0
    started = time.perf_counter()
    compiled = jax.jit(train_step, donate_argnums=(0, 1, 2)).lower(*state, *rest).compile()
    step_s = time.perf_counter() - started

    def infer():
        jax.block_until_ready(inference(fixed, clip))

    def step():
        state[:] = compiled(*state, *rest)
        jax.block_until_ready(state)

    step.text = compiled.as_text()  # for operations.py
    return infer, step, inference_s, step_s


PASSES = ("inference", "training")
CONTENDERS = {
    "torch": functools.partial(torch_contender, channels_last=False),
    "torch, channels last": functools.partial(torch_contender, channels_last=True),
    "torch, autocast": functools.partial(torch_contender, channels_last=True, autocast=True),
    "ours": jax_contender,
    "own": functools.partial(jax_contender, onednn=False),
    "plain": functools.partial(jax_contender, plain=True),
}


def _peak_mib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def serve(name: str, contender: str, dtype: str, training: bool) -> None:
    """Runs a contender's process.

    Prints the MiB of a step and the compile times in seconds. Then it reads lines with 0
    (inference) or 1 (training step), and prints the milliseconds of two calls for each.
    """
    infer, step, *compile_s = CONTENDERS[contender](name, dtype, training)
    # Writing 5 resets the peak to the current memory (Linux, man 5 proc).
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mib()
    (step if training else infer)()
    print(_peak_mib() - before, *compile_s or [0, 0], flush=True)
    for line in sys.stdin:
        function = (infer, step)[int(line)]
        function()
        for _ in range(2):
            started = time.perf_counter()
            function()
            print(1e3 * (time.perf_counter() - started), flush=True)


class Contender:
    def __init__(self, name: str, contender: str, options):
        command = [sys.executable, __file__, "--models", name, "--serve", contender]
        command += ["--dtype", options.dtype, "--passes", options.passes]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.mib, *self.compile_s = map(float, self._line().split())

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[2:])} failed")
        return line

    def turn(self, index: int) -> list[float]:
        self.process.stdin.write(f"{index}\n")
        self.process.stdin.flush()
        return [float(self._line()) for _ in range(2)]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def compare(name: str, options) -> dict[str, float]:
    """Prints the row of a network; returns the ratios torch / ours."""
    asked = options.contenders.split(",")
    torches = ["torch", "torch, channels last"] + ["torch, autocast"] * (
        options.dtype == "bfloat16"
    )
    built = {}
    for group in asked:
        for contender in torches if group == "torch" else [group]:
            try:
                built[contender] = Contender(name, contender, options)
            except RuntimeError as error:
                print(error, file=sys.stderr)
    passes = [i for i, what in enumerate(PASSES) if what in options.passes.split(",")]
    medians = {}
    for index in passes:
        times = {contender: [] for contender in built}
        for turn in range(options.rounds):
            for contender, process in built.items():
                if contender != "plain" or turn < 1:  # a step of "plain" takes about a minute
                    times[contender] += process.turn(index)
        for contender, values in times.items():
            medians[contender, index] = float(np.median(values))
    for process in built.values():
        process.end()
    best = {i: min((medians[c, i] for c in torches if c in built), default=np.nan) for i in passes}

    def cell(values, form):
        return " / ".join(form.format(values[i]) for i in passes)

    cells, ratios = [name, cell(best, "{:.0f}")], {}
    for contender in asked:
        if contender == "torch":
            continue
        own = {i: medians[contender, i] for i in passes}
        cells.append(cell(own, "{:.0f}"))
        cells.append(cell({i: best[i] / own[i] for i in passes}, "{:.2f}"))
        ratios |= {f"{contender}, {PASSES[i]}": best[i] / own[i] for i in passes}
    cells.append(" / ".join(f"{process.mib:.0f}" for process in built.values()))
    cells.append(" / ".join(f"{s:.1f}" for s in built[asked[-1]].compile_s))
    print(f"| {' | '.join(cells)} |", flush=True)
    return ratios


def compile_for_tpu(name: str, plain: bool, topology_name: str, batch: int):
    """Returns estimated Mcycles of a bf16 training step on one chip, its MiB, and compile time."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name)
    mesh = jax.sharding.Mesh(np.array(topology.devices[:1]), "x")
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model, optimizer, train_step = jax_network(name, plain, "bfloat16")
    t, size = MODELS[name][0]
    clip = jax.ShapeDtypeStruct((batch, t, size, size, 3), jnp.bfloat16)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, clip)
    moments = jax.eval_shape(optimizer.init, variables["params"])
    operands = (variables["params"], variables["batch_stats"], moments, clip)
    operands += (jax.ShapeDtypeStruct((batch,), jnp.int32), key)
    operands = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), operands
    )
    started = time.perf_counter()
    traced = jax.jit(train_step, donate_argnums=(0, 1, 2)).trace(*operands)
    compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text())))
    memory = compiled.memory_analysis()
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return cycles / 1e6, held >> 20, time.perf_counter() - started


def compare_on_tpu(names: list[str], topology: str, batch: int) -> None:
    from jaxvideo.models.summary import summarize

    print(f"{topology}, batch {batch}, bf16: the compiler's estimates for a training step\n")
    print(
        "| network | plain, Mcycles | ours | ours / plain | full matrix units | MiB | compile s |"
    )
    print(f"|{'---|' * 7}", flush=True)
    for name in names:
        t, size = MODELS[name][0]
        arguments = MODELS[name][1]
        macs = summarize(name, frames=t, crop=size, num_classes=CLASSES, **arguments).macs
        floor = 3 * batch * macs / TPU_MACS_PER_CYCLE / 1e6
        plain, ours = (compile_for_tpu(name, p, topology, batch) for p in (True, False))
        print(
            f"| {name} | {plain[0]:.1f} | {ours[0]:.1f} | {ours[0] / plain[0]:.2f} | {floor:.1f} "
            f"| {plain[1]} / {ours[1]} | {plain[2]:.0f} / {ours[2]:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--contenders",
        default="torch,own,ours",
        help="comma-separated list of torch, own, ours, plain",
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--passes", default=",".join(PASSES), help="inference, training or both")
    parser.add_argument("--platform", choices=["tpu"], help="default: this CPU")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--tpu-batch", type=int, default=8, help="clips per chip")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.platform == "tpu":
        compare_on_tpu(options.models.split(","), options.topology, options.tpu_batch)
        return
    if options.serve:
        training = "training" in options.passes.split(",")
        serve(options.models, options.serve, options.dtype, training)
        return
    heads = ["network", "torch"]
    for contender in options.contenders.split(","):
        if contender != "torch":
            heads += [contender, f"torch / {contender}"]
    heads += ["MiB of a step", f"compile s, {options.contenders.split(',')[-1]}"]
    print(f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores")
    print(f"ms, {options.passes}, batch {BATCH}, {options.dtype}\n")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    rows = [compare(name, options) for name in options.models.split(",")]
    for what in rows[0]:
        mean = np.exp(np.mean([np.log(row[what]) for row in rows]))
        print(f"geometric mean, torch / {what}: {mean:.2f}")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
