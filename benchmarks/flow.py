"""Compares speed and accuracy of the device's TV-L1 flow with OpenCV's methods.

    python benchmarks/flow.py --clip clip.mp4     # DualTVL1 needs opencv-contrib-python-headless

Runs on one core, with gray frames of 256 x 340. Columns of the table:
- CPU time of the process per pair of frames of the clip. It is less sensitive to other load than
  wall time; compare ratios.
- End-point error in pixels for known motions, without a border of 12 pixels; median and maximum
  over eight photographs. Motions: translations (t), a rotation by 4 pixels at radius 120 (rot4),
  and a textured square of side 120 that moves over a still photograph (obj).
- Mean absolute difference from DualTVL1's flow on the clip.
The last line is the memory for a video of 250 frames.
"""

import argparse
import itertools
import os
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--clip", required=True, help="a video with real motion")
parser.add_argument("--pairs", type=int, default=3, help="number of frame pairs of the clip to use")
parser.add_argument("--core", type=int, default=0)
options = parser.parse_args()

os.sched_setaffinity(0, {options.core})  # before JAX counts its cores
os.environ["JAX_PLATFORMS"] = "cpu"

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from skimage import data

from jaxvideo.data.decode import read_clip
from jaxvideo.data.video import open_video
from jaxvideo.layers.tvl1 import tvl1, tvl1_video
from jaxvideo.types import View, Window

H, W = 256, 340
# All photographs that are large enough. "rocket" and "camera" are mostly sky, where no method can
# find the motion. The texture of "brick" and "grass" is periodic.
PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
TRANSLATIONS, OBJECTS = (1, 3, 8, 15), (3, 8)


def gray(name):
    picture = getattr(data, name)()
    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def sampled(picture, x, y):
    """Samples a photograph at (x, y), relative to the corner of its center H x W crop."""
    top, left = (picture.shape[0] - H) // 2, (picture.shape[1] - W) // 2
    place = np.float32(x + left), np.float32(y + top)
    return cv2.remap(picture, *place, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def scenes():
    """Returns lists of (first frame, second frame, flow) by the name of the motion."""
    y, x = np.mgrid[:H, :W].astype(np.float64)
    found = {}
    for number, name in enumerate(PHOTOGRAPHS):
        picture = gray(name)
        first = sampled(picture, x, y)
        angle = 0.6 + number  # direction of the translation
        for length in TRANSLATIONS:
            dx, dy = length * np.cos(angle), length * np.sin(angle)
            truth = np.broadcast_to((dx, dy), (H, W, 2))
            scene = first, sampled(picture, x - dx, y - dy), truth
            found.setdefault(f"t{length}", []).append(scene)
        turn = np.exp(1j * 4 / 120)
        place = x - (W - 1) / 2 + 1j * (y - (H - 1) / 2)
        motion, source = place * turn - place, place / turn - place
        scene = first, sampled(picture, x + source.real, y + source.imag)
        truth = np.stack([motion.real, motion.imag], -1)
        found.setdefault("rot4", []).append((*scene, truth))
        texture = sampled(gray(PHOTOGRAPHS[number - 1]), x, y)[60:180, 60:180]
        for length in OBJECTS:
            pair = [first.copy(), first.copy()]
            truth = np.zeros((H, W, 2))
            truth[68:188, 110:230] = length, 0
            for frame, shift in zip(pair, (0, length), strict=True):
                frame[68:188, 110 + shift : 230 + shift] = texture
            found.setdefault(f"obj{length}", []).append((*pair, truth))
    return found


def clip_frames(path, count):
    with open_video(path) as video:
        whole = Window(0, 0, video.height, video.width)
        middle = range(video.num_frames // 2, video.num_frames // 2 + count)
        square = read_clip(video, [View(tuple(middle), whole)], W)[0]
    return [cv2.cvtColor(cv2.resize(f, (W, H)), cv2.COLOR_RGB2GRAY) for f in square]


def methods():
    def tv(iterations):
        def calculate(a, b):
            return np.asarray(solve(a[None], b[None])[0])

        solve = jax.jit(lambda a, b: tvl1(a, b, iterations=iterations))
        return calculate

    def opencv(made):
        return lambda a, b: made.calc(a, b, None)

    found = {"JAX TV-L1, 10 iterations": tv(10), "JAX TV-L1, 30 iterations": tv(30)}
    found["cv2 Farneback"] = lambda a, b: cv2.calcOpticalFlowFarneback(
        a, b, None, 0.5**0.5, 5, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN
    )
    for preset in ("ULTRAFAST", "FAST", "MEDIUM"):
        number = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset}")
        found[f"cv2 DIS {preset}"] = opencv(cv2.DISOpticalFlow_create(number))
    if hasattr(cv2, "optflow"):
        found["cv2 DualTVL1 default"] = opencv(cv2.optflow.DualTVL1OpticalFlow_create())
    return found


def endpoint_error(flow, truth):
    return np.linalg.norm(flow - truth, axis=-1)[12:-12, 12:-12].mean()


def memory():
    """Returns the bytes of the program for 250 frames: (video, result, temporaries)."""
    video = jax.ShapeDtypeStruct((250, H, W), jnp.uint8)
    program = jax.jit(lambda v: tvl1_video(v, iterations=10)).lower(video).compile()
    sizes = program.memory_analysis()
    return sizes.argument_size_in_bytes, sizes.output_size_in_bytes, sizes.temp_size_in_bytes


def main() -> None:
    cv2.setNumThreads(1)
    known, real = scenes(), clip_frames(options.clip, options.pairs + 1)
    pairs = list(itertools.pairwise(real))
    times, fields, errors = {}, {}, {}
    for name, calculate in methods().items():
        calculate(*pairs[0])  # compiles and allocates
        repeats, fields[name], spent = (1 if "Dual" in name else 5), [], []
        for a, b in pairs:
            for _ in range(repeats):
                started = time.process_time()
                flow = calculate(a, b)
                spent.append(time.process_time() - started)
            fields[name].append(flow)
        times[name] = 1e3 * float(np.median(spent))
        errors[name] = [
            [endpoint_error(calculate(a, b), truth) for a, b, truth in scene]
            for scene in known.values()
        ]
    reference = next((name for name in times if "Dual" in name), None)
    print(f"OpenCV {cv2.__version__}, jax {jax.__version__}, {options.pairs} pairs of the clip\n")
    print(f"| method | CPU ms/pair | pairs/s | x DualTVL1 | {' | '.join(known)} | clip |")
    print(f"|---|{'---:|' * (4 + len(known))}")
    for name, ms in times.items():
        ratio = f"{times[reference] / ms:.1f}" if reference else "-"
        apart = "-"
        if reference:
            apart = f"{np.abs(np.subtract(fields[name], fields[reference])).mean():.3f}"
        row = " | ".join(f"{np.median(e):.3f} {np.max(e):.2f}" for e in errors[name])
        print(f"| {name} | {ms:.1f} | {1e3 / ms:.1f} | {ratio} | {row} | {apart} |")
    video, result, beside = (size / 1e6 for size in memory())
    print(
        f"\n250 frames of {H} x {W} by tvl1_video: video {video:.0f} MB, "
        f"result {result:.0f} MB, beside them {beside:.0f} MB"
    )


if __name__ == "__main__":
    main()
