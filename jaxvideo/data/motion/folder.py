"""The embedded data set: eight motions of a photographed object, as real H.264 files.

Training must be possible on the first day without a download, so this module renders a small
video data set from the photographs inside scikit-image's wheel and writes it the way UCF101 or
Kinetics lie on a disk: `root/{train,val}/<class>/<number>.mp4`, `root/train.csv`, `root/val.csv`
(lines `relative/path label_name`) and `root/classes.txt` (order = label index).

The label is the motion of the object and nothing else. What a model may not use is excluded by
how a clip is drawn, not by filtering afterwards:

- *Direction.* The second class of a pair (`right`, `down`, `counterclockwise`, `zoom_out`) is
  the first one played backwards, and everything else in a clip (drift, pan, flicker, noise) has
  a law that time reversal leaves alone. The validation set holds both members of every pair, so
  a model blind to the order of the frames scores at most 50 %. This is exact for the rendered
  frames; H.264 predicts from the past, so its faint artifacts are not reversed with them.
- *Axis.* A labeled axis passes through `speed * time`; each other axis rests at half of
  `speed' * time'`, drawn by the same law (all of it would push many objects out of the picture).
  So a frame taken at random says little about the class: ridge regression on where the object is
  has 17 % of 800 unseen frames right (chance: 12.5 %). Only a model that knows WHICH frame it
  sees learns more: the first one, known to be first, shows on which side a movement begins
  (57 %); the middle one, where every labeled axis is near its center, does not (14 %).
- *Appearance.* Photograph, mask, colors, background, distractor and noise are drawn without
  looking at the label; labels cycle with the number of the video, so every class has as many.

Train and validation share no photograph, neither as background nor as object.

No augmentation may mirror, rotate or reverse these clips: that changes their class.
"""

import contextlib
import functools
import importlib.util
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from jaxvideo.startup import cache_directory
from jaxvideo.types import DataError

try:
    import fcntl
except ImportError:  # Windows: files are still replaced atomically, only the waiting is lost
    fcntl = None

CLASSES: tuple[str, ...] = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counterclockwise",
    "zoom_in",
    "zoom_out",
)
SPLITS: tuple[str, ...] = ("train", "val")

# Part of the default folder's name and of motion.json: raise it whenever a rendered pixel or an
# encoder setting changes, so that nobody trains on yesterday's files under today's name.
VERSION = 2

FRAMES = 24
FPS = 25
HEIGHT, WIDTH = 84, 112

TRAIN_PHOTOS: tuple[str, ...] = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coins.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
    "rocket.jpg",
)
VAL_PHOTOS: tuple[str, ...] = (
    "cell.png",
    "coffee.png",
    "gravel.png",
    "motorcycle_left.png",
    "page.png",
    "text.png",
)
# The first hundred of scikit-image's Labeled Faces in the Wild excerpt are faces, 25 x 25 gray.
TRAIN_FACES = range(75)
VAL_FACES = range(75, 100)

# Speed per frame along (x, y, rotation, zoom): px, px, rad, log of the scale.
_SLOWEST = np.array([1.5, 1.2, np.deg2rad(7.0), 0.036])
_FASTEST = np.array([3.1, 2.4, np.deg2rad(14.0), 0.058])
# What moves along the axes that are not labeled; an eighth of the slowest labeled speed keeps
# "anything moves there at all" from being a label.
_DRIFT = _SLOWEST / 8
# Where those axes rest, as a part of the way that a labeled one travels.
_REST = 0.5
# Center of the object, half range around the middle of the frame. The angle is anything.
_CENTER = np.array([7.0, 5.0, np.pi, 0.0])
# First class of each pair: left, up, clockwise on the screen (y points down), zoom_in.
_DIRECTION = np.array([-1.0, -1.0, 1.0, 1.0])

_TEXTURE = 56  # side of an object's own image, px
_MARGIN = 10  # background beyond the frame, px: room for its pan and zoom
_NOISE_STD = 30.0


def render(seed: int, split: str, number: int) -> tuple[np.ndarray, int]:
    """Frames and label of one video, exactly as they are before encoding.

    A pure function: a video depends on nothing but its three arguments, so sets of different
    sizes share their beginnings and any file can be made again alone. In `val`, numbers 2k and
    2k+1 are time reversed twins.

    Returns:
        uint8 RGB frames `[24, 84, 112, 3]` and the index of the label in `CLASSES`.

    Raises:
        DataError: unknown split, negative number or seed, or scikit-image is not installed.
    """
    if split not in SPLITS or seed < 0 or number < 0:
        raise DataError(f"no motion video for seed={seed}, split={split!r}, number={number}")
    label = number % len(CLASSES)
    axis, backwards = divmod(label, 2)
    drawn = number - backwards if split == "val" else number
    rng = np.random.default_rng((seed, SPLITS.index(split), drawn))
    frames = _render_forwards(rng, split, axis)
    return (np.ascontiguousarray(frames[::-1]) if backwards else frames), label


def encode(frames: np.ndarray, codec: str | None = None) -> bytes:
    """Bytes of an mp4 file holding `frames`.

    Args:
        frames: uint8 RGB `[T, H, W, 3]`, H and W even.
        codec: `libx264` or `mpeg4`; by default the first that this PyAV has (a build of FFmpeg
            under the LGPL lacks libx264).

    One encoder thread: with several, x264's rate control and hence the bytes depend on timing.
    """
    codec = codec or _codec()
    num_frames, height, width, _ = frames.shape
    # GOP 12 without B-frames: seeking works within a short clip as it does in UCF101.
    options = {"g": "12", "bf": "0"}
    if codec == "libx264":
        options |= {"preset": "veryfast", "crf": "25", "sc_threshold": "0"}
        # Measured (x264 165): its macroblock tree gives other bytes in one run of a hundred, even
        # in one thread, at 112 x 84 (not at 128 x 96); without it all runs agree.
        options["mbtree"] = "0"
    else:
        options |= {"flags": "+qscale", "global_quality": str(5 * 118)}  # FF_QP2LAMBDA
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for index in range(num_frames):
            planes = cv2.cvtColor(frames[index], cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def ensure_motion(
    root: str | os.PathLike | None = None,
    *,
    train: int = 1200,
    val: int = 320,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Folder of the motion data set, written first where it is not there yet.

    Interrupted at any moment, even by SIGKILL, it is completed by the next call; of two
    processes calling at once, one writes and the other waits. The bytes depend on `train`,
    `val` and `seed` (and on the versions of the libraries), never on `threads`.

    Args:
        root: the folder itself. It must be absent, empty, or a motion set with the same
            parameters. Default: `motion-v<version>-<train>-<val>-<seed>` under
            `startup.cache_directory()`.
        train, val: numbers of videos, multiples of 8 (the classes; in `val` also the twins).
        seed: 0 or more.
        threads: videos made at the same time; default: the cores this process may use.
        progress: receives a line of text at most twice a second; default: standard error.

    Raises:
        DataError: counts, seed or threads out of range; scikit-image not installed; the folder
            is something else, holds other parameters, or cannot be written.
    """
    if train % len(CLASSES) or val % len(CLASSES) or train < 0 or val < 0:
        raise DataError(f"train={train} and val={val} must be multiples of {len(CLASSES)}")
    if seed < 0 or (threads is not None and threads < 1):
        raise DataError(f"seed={seed} must be at least 0 and threads={threads} at least 1")
    wanted = {"version": VERSION, "train": train, "val": val, "seed": seed}
    if root is None:
        folder = cache_directory() / f"motion-v{VERSION}-{train}-{val}-{seed}"
        advice = " Set JAXVIDEO_CACHE to a folder with space to keep it elsewhere."
    else:
        folder, advice = Path(root), ""
    say = _stderr_reporter() if progress is None else lambda text, stays: progress(text)

    try:
        if _finished(folder, wanted):  # without the lock: a finished set may be read-only
            return folder
        _codec()
        for split in SPLITS:  # what is missing here must not leave half a folder behind
            _photos(split)
        _faces()
        _horse()
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, say) as alone:
            if not _finished(folder, wanted):
                _write_set(folder, wanted, threads or _num_cores(), alone, say)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write the motion set in {folder}: {reason}.{advice}") from error
    return folder


# Rendering.


def _render_forwards(rng: np.random.Generator, split: str, axis: int) -> np.ndarray:
    """One clip of the first class of pair `axis`: uint8 RGB `[24, 84, 112, 3]`."""
    times = np.arange(FRAMES)[:, None] - (FRAMES - 1) / 2
    speed = rng.uniform(_SLOWEST, _FASTEST)
    rest = _REST * rng.uniform(_SLOWEST, _FASTEST) * rng.uniform(-FRAMES / 2, FRAMES / 2, 4)
    path = rest + rng.uniform(-_DRIFT, _DRIFT) * times
    path[:, axis] = _DIRECTION[axis] * speed[axis] * times[:, 0]
    path += rng.uniform(-_CENTER, _CENTER)
    x, y, angle, log_scale = path.T
    # An object's mean radius is 0.36 of its texture's side; 20 to 26 px in the middle of a zoom.
    scale = rng.uniform(20, 26) / (0.36 * _TEXTURE) * np.exp(log_scale)

    background, color, keep = _draw_layers(rng, split)
    height, width = background.shape[:2]
    pan = rng.uniform(-0.25, 0.25, 2) * times
    background_pose = _inverse_pose(
        source=((width - 1) / 2, (height - 1) / 2),
        x=(WIDTH - 1) / 2 + pan[:, 0],
        y=(HEIGHT - 1) / 2 + pan[:, 1],
        angle=np.zeros(FRAMES),
        scale=np.exp(rng.uniform(-0.002, 0.002) * times[:, 0]),
    )
    target = {"x": (WIDTH - 1) / 2 + x, "y": (HEIGHT - 1) / 2 + y, "angle": angle}
    middle = (_TEXTURE - 1) / 2
    object_pose = _inverse_pose(source=(middle, middle), scale=scale, **target)
    # Below half size bilinear sampling would skip texels and the texture would shimmer.
    small_color, small_keep = (
        cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for image in (color, keep)
    )
    middle = (_TEXTURE / 2 - 1) / 2
    small_pose = _inverse_pose(source=(middle, middle), scale=scale * 2, **target)

    gain = rng.uniform(0.75, 1.15) * rng.normal(1.0, 0.02, FRAMES)
    noise = _noise()
    noise_gain = rng.uniform(1, 3.5) / _NOISE_STD
    noise_top = rng.integers(0, noise.shape[0] - HEIGHT, FRAMES)
    noise_left = rng.integers(0, noise.shape[1] - WIDTH, FRAMES)

    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(FRAMES):
        if scale[t] < 0.6:
            object_args = small_color, small_keep, small_pose[t]
        else:
            object_args = color, keep, object_pose[t]
        frame = cv2.warpAffine(
            background,
            background_pose[t],
            (WIDTH, HEIGHT),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        frame = _paste(frame, *object_args)
        top, left = noise_top[t], noise_left[t]
        grain = noise[top : top + HEIGHT, left : left + WIDTH]
        # One saturating uint8 pass: gain * frame + noise, the field's own mean (128) removed.
        cv2.addWeighted(frame, gain[t], grain, noise_gain, -128 * noise_gain, dst=frames[t])
    return frames


def _draw_layers(rng: np.random.Generator, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background with a distractor on it, and the object as (color * alpha, 255 - alpha).

    All uint8, three channels (also the alpha: cv2.multiply wants equal shapes).
    """
    size = (WIDTH + 2 * _MARGIN, HEIGHT + 2 * _MARGIN)
    level = rng.uniform(55, 195)
    background = _toned(rng, _crop(rng, split, size, (0.45, 0.95)), level, rng.uniform(16, 30))
    color, keep = _cutout(rng, split, level)
    # The distractor lies on the background and moves with it; it obeys the object's own law of
    # looks, so that nothing but its motion sets the object apart.
    pose = _inverse_pose(
        source=((_TEXTURE - 1) / 2, (_TEXTURE - 1) / 2),
        x=rng.uniform(0.1, 0.9, 1) * size[0],
        y=rng.uniform(0.1, 0.9, 1) * size[1],
        angle=rng.uniform(-np.pi, np.pi, 1),
        scale=rng.uniform(7, 12, 1) / (0.36 * _TEXTURE),
    )
    return _paste(background, *_cutout(rng, split, level), pose[0]), color, keep


def _cutout(
    rng: np.random.Generator, split: str, background_level: float
) -> tuple[np.ndarray, np.ndarray]:
    """A piece of a photograph under a mask: (color * alpha, 255 - alpha), uint8 `[56, 56, 3]`."""
    faces = TRAIN_FACES if split == "train" else VAL_FACES
    if rng.random() < 0.2:
        face = _faces()[rng.integers(faces.start, faces.stop)]
        texture = cv2.resize(face, (_TEXTURE, _TEXTURE), interpolation=cv2.INTER_CUBIC)
    else:
        # Sky and table tops would make a turning disc look still: the richest of three crops.
        crops = [_crop(rng, split, (_TEXTURE, _TEXTURE), (0.2, 0.55)) for _ in range(3)]
        texture = max(crops, key=np.std)
    # Visible on any background: at least 55 of 255 levels brighter or darker in the mean.
    apart = rng.uniform(55, 95) * (1 if rng.random() < 0.5 else -1)
    if not 20 < background_level + apart < 230:
        apart = -apart
    texture = _toned(rng, texture, background_level + apart, rng.uniform(32, 46))
    alpha = cv2.cvtColor(_mask(rng, split), cv2.COLOR_GRAY2RGB)
    return cv2.multiply(texture, alpha, scale=1 / 255), 255 - alpha


def _mask(rng: np.random.Generator, split: str) -> np.ndarray:
    """Alpha of an object, uint8 `[56, 56]`: an ellipse, a blob, a polygon or the horse.

    None has a rotational symmetry that, with a photograph on it, could hide a rotation.
    """
    radius, angle = _polar_grid()
    kind = rng.integers(4 if split == "train" else 3)
    if kind == 3:
        return _horse()
    if kind == 2:
        corners = rng.integers(3, 7)
        turns = np.arange(corners) + rng.uniform(-0.3, 0.3, corners)
        turns = turns * 2 * np.pi / corners
        reach = rng.uniform(0.34, 0.48, corners) * _TEXTURE
        points = np.stack([np.cos(turns), np.sin(turns)], -1) * reach[:, None]
        fixed_point = np.round((points + (_TEXTURE - 1) / 2) * 16).astype(np.int32)
        mask = np.zeros((_TEXTURE, _TEXTURE), np.uint8)
        cv2.fillPoly(mask, [fixed_point], 255, cv2.LINE_AA, shift=4)
        return cv2.blur(mask, (3, 3))
    if kind == 1:
        edge = np.ones_like(angle)
        for waves in (2, 3, 4, 5):
            size = rng.uniform(-0.6, 0.6) / waves
            edge += size * np.cos(waves * angle + rng.uniform(-np.pi, np.pi))
        edge *= 0.36
    else:
        ratio = rng.uniform(0.45, 0.7)
        edge = 0.46 * ratio / np.hypot(ratio * np.cos(angle), np.sin(angle))
    edge = np.clip(edge, 0.12, 0.48) * _TEXTURE
    return np.clip((edge - radius) * 127 + 127, 0, 255).astype(np.uint8)


def _crop(
    rng: np.random.Generator, split: str, size: tuple[int, int], share: tuple[float, float]
) -> np.ndarray:
    """A random piece of a random photograph, uint8 `[size[1], size[0], 3]`.

    Args:
        share: bounds of the piece's size, as a part of the largest of its shape that fits.
    """
    photos = _photos(split)
    photo = photos[rng.integers(len(photos))]
    height, width = photo.shape[:2]
    ratio = min(width / size[0], height / size[1]) * rng.uniform(*share)
    crop_width, crop_height = int(size[0] * ratio), int(size[1] * ratio)
    left = rng.integers(width - crop_width + 1)
    top = rng.integers(height - crop_height + 1)
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:  # of the picture, before anything moves: no class is changed
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(crop), size, interpolation=method)


def _toned(rng: np.random.Generator, image: np.ndarray, level: float, std: float) -> np.ndarray:
    """`image` with the given mean and contrast and a random tint: uint8, same shape."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    # At most 4 times the contrast: more would show a JPEG's blocks in a clear sky.
    gain = min(std / max(float(image.std()), 1e-3), 4.0)
    tint = rng.uniform(0.75, 1.25, 3)
    tint /= tint.mean()
    shifted = (image - np.float32(image.mean())) * np.float32(gain) + np.float32(level)
    return np.clip(shifted * tint.astype(np.float32), 0, 255).astype(np.uint8)


def _inverse_pose(
    source: tuple[float, float],
    x: np.ndarray,
    y: np.ndarray,
    angle: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Affine maps `[T, 2, 3]` from a frame's pixels back to a layer's.

    Args:
        source: the layer's pixel (x, y) that comes to lie at the frame's pixel (`x`, `y`).
        x, y, angle, scale: `[T]`; px, px, rad clockwise on the screen, layer to frame.
    """
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    row_x = np.stack([cos, sin, source[0] - cos * x - sin * y], -1)
    row_y = np.stack([-sin, cos, source[1] + sin * x - cos * y], -1)
    return np.stack([row_x, row_y], 1)


def _paste(below: np.ndarray, color: np.ndarray, keep: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """`below` uint8 `[H, W, 3]` with a cutout (see `_cutout`) laid over it at `pose`."""
    size = below.shape[1::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    color = cv2.warpAffine(color, pose, size, flags=flags)
    keep = cv2.warpAffine(keep, pose, size, flags=flags, borderValue=(255, 255, 255))
    return cv2.add(cv2.multiply(below, keep, scale=1 / 255), color)


@functools.cache
def _polar_grid() -> tuple[np.ndarray, np.ndarray]:
    ticks = np.arange(_TEXTURE) - (_TEXTURE - 1) / 2
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    return np.hypot(x, y), np.arctan2(y, x)


@functools.cache
def _noise() -> np.ndarray:
    """One field of Gaussian noise around 128; every frame shows another window of it."""
    noise = np.random.default_rng(0).normal(128, _NOISE_STD, (3 * HEIGHT, 3 * WIDTH, 3))
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)


# Photographs.


def _picture(name: str) -> Path:
    """Path of a file of scikit-image's wheel.

    Found without importing skimage (half a second), and never through `skimage.data`, which
    would try to download what is missing.
    """
    package = importlib.util.find_spec("skimage")
    folders = (package and package.submodule_search_locations) or []
    for folder in folders:
        path = Path(folder) / "data" / name
        if path.is_file():
            return path
    raise DataError(
        f"the motion data set is rendered from the photograph {name} of scikit-image, which is "
        "not here: pip install scikit-image"
    )


def _read_picture(name: str, mode: str) -> np.ndarray:
    """uint8 `[H, W, 3]` ("RGB") or `[H, W]` ("L").

    By Pillow, which scikit-image requires: OpenCV's libpng would print a warning about the
    color profile of motorcycle_left.png.
    """
    path = _picture(name)
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except OSError as error:
        raise DataError(f"{path} is damaged: pip install --force-reinstall scikit-image") from error


@functools.cache
def _photos(split: str) -> tuple[np.ndarray, ...]:
    """RGB photographs of a split, uint8 `[H, W, 3]`, the shorter side at most 300 px."""
    photos = []
    for name in TRAIN_PHOTOS if split == "train" else VAL_PHOTOS:
        image = _read_picture(name, "RGB")
        ratio = 300 / min(image.shape[:2])
        if ratio < 1:
            image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        photos.append(image)
    return tuple(photos)


@functools.cache
def _faces() -> np.ndarray:
    """uint8 `[200, 25, 25]`; the first 100 are faces."""
    return np.rint(np.load(_picture("lfw_subset.npy")) * 255).astype(np.uint8)


@functools.cache
def _horse() -> np.ndarray:
    """Alpha of scikit-image's horse silhouette, uint8 `[56, 56]`."""
    horse = 255 - _read_picture("horse.png", "L")  # black on white
    side = max(horse.shape)
    down, across = side - horse.shape[0], side - horse.shape[1]
    horse = cv2.copyMakeBorder(
        horse, down // 2, down - down // 2, across // 2, across - across // 2, cv2.BORDER_CONSTANT
    )
    return cv2.resize(horse, (_TEXTURE, _TEXTURE), interpolation=cv2.INTER_AREA)


# Writing.

_DONE, _BEGUN, _LOCK = "motion.json", ".motion.begun.json", ".motion.lock"
_TEMPORARY = ".motion-tmp-"


@functools.cache
def _codec() -> str:
    for name in ("libx264", "mpeg4"):
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            return av.codec.Codec(name, "w").name
    raise DataError("this PyAV has neither libx264 nor mpeg4: pip install av")


def _num_cores() -> int:
    # The cores of this process, not of the machine: clusters hand out a few of many. Beyond
    # eight, threads only queue for the GIL.
    allowed = getattr(os, "sched_getaffinity", None)
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, 8)


def _videos(split: str, count: int) -> Iterator[tuple[int, str]]:
    """Numbers of a split and their paths relative to the root."""
    for number in range(count):
        yield number, f"{split}/{CLASSES[number % len(CLASSES)]}/{number:05d}.mp4"


def _finished(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether `folder` is the complete set; DataError if it is anything but a part of it."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return False
    ours = [name for name in (_DONE, _BEGUN) if name in names]
    if not ours:
        if all(name == _LOCK or name.startswith(_TEMPORARY) for name in names):
            return False
        raise DataError(f"{folder} is neither empty nor a motion set: give another folder")
    for name in ours:
        try:
            found = json.loads((folder / name).read_text())
        except FileNotFoundError:  # another process has just finished: renamed
            return _finished(folder, wanted)
        except ValueError as error:
            raise DataError(f"{folder / name} is damaged: delete the folder") from error
        if found != wanted:
            raise DataError(f"{folder} holds the motion set {found}, not {wanted}")
    return (
        _BEGUN not in names
        and {"train.csv", "val.csv", "classes.txt"} <= names
        and not _missing(folder, wanted)
    )


def _missing(folder: Path, wanted: dict[str, int]) -> list[tuple[str, int, str]]:
    """(split, number, relative path) of every video that is absent or empty."""
    present = set()
    for split in SPLITS:
        for name in CLASSES:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder / split / name) as files:
                # Empty: a name that outlived a power cut, its bytes did not.
                present |= {f"{split}/{name}/{f.name}" for f in files if f.stat().st_size > 0}
    return [
        (split, number, path)
        for split in SPLITS
        for number, path in _videos(split, wanted[split])
        if path not in present
    ]


def _write_set(
    folder: Path,
    wanted: dict[str, int],
    threads: int,
    alone: bool,
    say: Callable[[str, bool], None],
) -> None:
    parameters = json.dumps(wanted) + "\n"
    _replace(folder / _BEGUN, parameters.encode())
    if alone:  # else they may be another process's, still being written
        for path in folder.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)
    for split in SPLITS:
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)

    def write(split: str, number: int, path: str) -> None:
        frames, _ = render(wanted["seed"], split, number)
        _replace(folder / path, encode(frames))

    todo = _missing(folder, wanted)
    say(f"rendering {len(todo)} motion videos (once) into {folder}", True)
    begun = time.monotonic()
    pool = ThreadPoolExecutor(threads)
    try:
        pending = {pool.submit(write, *video) for video in todo}
        while pending:
            # FIRST_EXCEPTION: a full disk is reported at once, not after 1,500 failures.
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            made = len(todo) - len(pending)
            rate = made / (time.monotonic() - begun)
            left = f", {len(pending) / rate:.0f} s left" if made else ""
            say(f"motion: {made}/{len(todo)} videos, {rate:.0f}/s{left}", not pending)
    finally:
        pool.shutdown(cancel_futures=True)

    for split in SPLITS:
        lines = (f"{path} {path.split('/')[1]}\n" for _, path in _videos(split, wanted[split]))
        _replace(folder / f"{split}.csv", "".join(lines).encode())
    _replace(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    # The mark of a complete set, and the last thing written.
    os.replace(folder / _BEGUN, folder / _DONE)


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@contextlib.contextmanager
def _locked(folder: Path, say: Callable[[str, bool], None]) -> Iterator[bool]:
    """Holds the folder against other processes; yields False where that is impossible.

    A lock of the kernel's: it dies with its process, so SIGKILL leaves none behind. Without
    one (Windows, some network file systems) two processes do the same work twice, and each
    file is still replaced whole, with equal bytes.
    """
    with open(folder / _LOCK, "a") as file:
        if fcntl is None:
            yield False
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            say(f"another process is writing {folder}; waiting for it", True)
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone


def _stderr_reporter() -> Callable[[str, bool], None]:
    """Lines that stay, and between them one that is overwritten (tty) or is rare (log file)."""
    tty = sys.stderr.isatty()
    shown = time.monotonic()

    def say(text: str, stays: bool) -> None:
        nonlocal shown
        if tty:
            print(f"\r\x1b[K{text}", end="\n" if stays else "", file=sys.stderr, flush=True)
        elif stays or time.monotonic() - shown >= 5:
            shown = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return say
