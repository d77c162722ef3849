"""Prints the time of a training step on a CPU by kind of operation, for jaxvideo and torch.

    python benchmarks/operations.py [--models r2plus1d_18,x3d_m] [--steps 3]

The step is that of `benchmarks/models.py` in f32. Times of jaxvideo are from JAX's profiler, which
assigns each operation of the compiled program to the layer that it was traced in. The profiler does
not record calls of oneDNN; their time is the rest of the step. Times of torch are from its
profiler. Both libraries run alone; times are milliseconds per step, after two steps of warm-up.
"""

import argparse
import collections
import os
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.models import cpu_name, jax_contender, torch_contender

KINDS = ("convolutions", "BN", "ReLU, swish", "pools", "sums, copies", "optimizer", "other")

# Kinds by patterns of the name of the operation, which includes its layers; the first one counts.
OURS = (
    ("BN", r"/(bn|norm)"),
    ("ReLU, swish", r"select_n|relu|swish|silu|logistic|sigmoid|/max$"),
    ("pools", r"reduce_window|select_and_scatter|max_pool|avg_pool|/pool"),
    ("convolutions", r"/(conv|spatial|temporal|projection|fc|branch)[^/]*/"),
    ("optimizer", r"jit\(train_step\)/(mul|add|sub|div)"),
    ("sums, copies", r"add|copy|transpose|concatenate|reshape|convert"),
)
TORCH = (
    ("convolutions", r"conv|addmm|aten::mm$|aten::bmm|linear"),
    ("BN", r"batch_norm"),
    ("ReLU, swish", r"relu|threshold|silu|sigmoid|hardtanh"),
    ("pools", r"pool"),
    ("optimizer", r"foreach|optimizer|lerp"),
    ("sums, copies", r"add|copy|cat|contiguous|clone|mul|fill|zero"),
)


def kind_of(name: str, table) -> str:
    return next((kind for kind, pattern in table if re.search(pattern, name)), "other")


def ours(name: str, steps: int) -> dict[str, float]:
    import jax

    _, step, *_ = jax_contender(name, "float32", training=True)
    layers = dict(re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', step.text, re.M))
    for _ in range(2):
        step()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            started = time.perf_counter()
            for _ in range(steps):
                step()
            whole = (time.perf_counter() - started) * 1e3 / steps
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    times = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in layers or re.match(r"[\w\-]+\.\d+$", event.name):
                    layer = layers.get(event.name, event.name)
                    kind = kind_of(layer, OURS)
                    times[kind] += event.duration_ns / 1e6 / steps
                    if os.environ.get("DETAILS"):
                        times[f"  {kind}: {re.sub(r'[0-9]+', 'N', layer)[-90:]}"] += (
                            event.duration_ns / 1e6 / steps
                        )
    # The profiler does not record calls of oneDNN.
    times["convolutions"] += whole - sum(times[kind] for kind in KINDS)
    return times


def torchs(name: str, steps: int) -> dict[str, float]:
    import torch

    _, step = torch_contender(name, "float32", training=True, channels_last=False)
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            step()
    times = collections.Counter()
    for event in profile.key_averages():
        times[kind_of(event.key, TORCH)] += event.self_cpu_time_total / 1e3 / steps
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="r2plus1d_18,s3d,x3d_m")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    print(cpu_name())
    for name in options.models.split(","):
        columns = [ours(name, options.steps), torchs(name, options.steps)]
        print(f"\n{name:<16}{'ours':>8}{'torch':>8}  ms per step")
        for kind in (*KINDS, *sorted(k for k in columns[0] if k not in KINDS)):
            print(f"{kind:<16}" + "".join(f"{column[kind]:8.0f}" for column in columns))
        print(
            f"{'all':<16}" + "".join(f"{sum(column[k] for k in KINDS):8.0f}" for column in columns)
        )


if __name__ == "__main__":
    main()
