"""Every lowering of the convolutions that a small (2+1)D, 3-D and I3D network are made of.

    python benchmarks/conv.py [--batch 32]

Prints milliseconds (best of five) and GFLOP/s of the forward pass, the input gradient and the
weight gradient, each alone, on the default device. AUTO is what the library chooses.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers.conv import conv3d, multiply_adds
from jaxvideo.types import ConfigError, Lowering

# Name, input (T, H, W, C), kernel, features, strides.
SHAPES = [
    ("stem 1x7x7", (8, 56, 56, 3), (1, 7, 7), 5, (1, 2, 2)),
    ("stem 3x7x7", (8, 56, 56, 3), (3, 7, 7), 8, (1, 2, 2)),
    ("1x3x3", (8, 28, 28, 8), (1, 3, 3), 18, (1, 1, 1)),
    ("3x1x1", (8, 28, 28, 18), (3, 1, 1), 8, (1, 1, 1)),
    ("3x3x3", (8, 28, 28, 8), (3, 3, 3), 8, (1, 1, 1)),
    ("1x3x3, stride 2", (8, 28, 28, 8), (1, 3, 3), 28, (1, 2, 2)),
    ("3x3x3, stride 2", (8, 28, 28, 8), (3, 3, 3), 16, (2, 2, 2)),
    ("1x1x1, stride 2", (8, 28, 28, 8), (1, 1, 1), 16, (2, 2, 2)),
    ("3x3x3, deep", (2, 7, 7, 64), (3, 3, 3), 64, (1, 1, 1)),
]


def milliseconds(function, *operands) -> float:
    jax.block_until_ready(function(*operands))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(function(*operands))
        best = min(best, time.perf_counter() - started)
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    batch = parser.parse_args().batch
    rng = np.random.default_rng(0)
    print(f"{jax.devices()[0].device_kind}, batch {batch}; ms (GFLOP/s)")
    print(f"{'':34}{'forward':>18}{'input gradient':>18}{'weight gradient':>18}")
    for name, size, kernel, features, strides in SHAPES:
        x = jnp.asarray(rng.normal(size=(batch, *size)), jnp.float32)
        w = jnp.asarray(rng.normal(size=(*kernel, size[-1], features)), jnp.float32)
        padding = tuple(k // 2 for k in kernel)
        for lowering in Lowering:

            def forward(x, w, how=lowering, strides=strides, padding=padding):
                return conv3d(x, w, strides, padding, lowering=how)

            try:
                y = forward(x, w)
            except ConfigError:
                continue  # this lowering is not for this kernel
            passes = (
                (jax.jit(forward), x, w),
                (jax.jit(lambda x, w, g, f=forward: jax.vjp(lambda x: f(x, w), x)[1](g)), x, w, y),
                (jax.jit(lambda x, w, g, f=forward: jax.vjp(lambda w: f(x, w), w)[1](g)), x, w, y),
            )
            flops = 2 * multiply_adds(y.shape, w.shape)
            cells = []
            for function, *operands in passes:
                ms = milliseconds(function, *operands)
                cells.append(f"{f'{ms:.1f} ({flops / ms / 1e6:.0f})':>18}")
            print(f"{name:<16}{lowering.name:<18}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
