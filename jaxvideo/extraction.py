"""Whole videos through a flow method or a network, for the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data import flow
from jaxvideo.data.decode import VideoFile, find_videos, open_video, read_frames
from jaxvideo.data.pipeline import read_views
from jaxvideo.data.views import clip_frames, frame_step, last_start, protocol_views
from jaxvideo.types import (
    BLACK,
    HOST_FLOWS,
    ConfigError,
    Preprocessing,
    Protocol,
    VideoError,
    View,
)
from jaxvideo.weights import tree

# Fields that are computed together: a video's memory does not grow with its length.
_BLOCK = 32

# Clips that are read together: frames that they share are decoded once.
_CLIPS = 8

FLOW_METHODS = ("tvl1", *HOST_FLOWS, *(f"warped_{method}" for method in ("tvl1", *HOST_FLOWS)))


def store_flow(path: str, method: str, size: int) -> bool:
    """Computes the flow of a video and stores it beside it, where `data.flow` finds it.

    Args:
      method: a row of `FLOW_METHODS`; "warped_", with the camera's motion taken out.
      size: the short side in pixels that frames are scaled down to first.

    Returns:
      False if the file was there already.

    Raises:
      ConfigError: no such method.
      VideoError: the video cannot be read, or has one frame only.
    """
    if method not in FLOW_METHODS:
        raise ConfigError(f"flow method {method!r}: allowed are {', '.join(FLOW_METHODS)}")
    if size < 16:
        raise ConfigError(f"flow at a short side of {size}: at least 16")
    target = flow.flow_path(path)
    if target.exists():
        return False
    with open_video(path) as video:
        if video.num_frames < 2:
            raise VideoError(f"{path}: one frame has no flow")
        info = flow.FlowInfo(method, video.height, video.width)
        flow.write_flow(target, _fields(video, method, size), video.fps or 25.0, info)
    return True


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What is extracted of every video, and how.

    Attributes:
      endpoint: a key of the network's endpoints; "logits", or "prob", their softmax.
      protocol: clips and crops of a video; features are averaged over the crops.
      every: instead of the protocol's clips, one begins every so many frames of the video, as
        long as it fits (C3D: clips of 16 frames, every 8); 0 is the protocol's.
      per_clip: a row per clip; else their average.
      keep_map: the endpoint as it is; else its average over T, H and W.
      normalize: divided by its L2 norm at the end (C3D, arXiv 1412.0767, section 4).
    """

    endpoint: str
    protocol: Protocol
    every: int = 0
    per_clip: bool = False
    keep_map: bool = False
    normalize: bool = False

    def __post_init__(self):
        if self.every < 0:
            raise ConfigError(f"a clip every {self.every} frames: at least 1, or 0 for none")

    def describe(self, preprocessing: Preprocessing) -> str:
        """One line for whoever finds the features."""
        views = self.protocol.describe_views(preprocessing)
        if self.every:
            one = _one_clip(self.protocol).describe_clip(preprocessing)
            views = f"a clip every {self.every} frames x {one}"
        means = ["T, H, W"] * (not self.keep_map) + ["clips"] * (not self.per_clip)
        return (
            f"{self.endpoint} of {views}"
            + f", mean over {' and '.join(means)}" * bool(means)
            + ", L2-normalized" * self.normalize
        )


def feature_files(paths: Sequence[str], out: str | os.PathLike[str]) -> dict[str, Path]:
    """Videos and the files for their features: `NAME.npz` in `out`, where NAME is a video's path
    below the folder of `paths` that it was found in, or of a single video its file name.

    Raises:
      DataError: no such video.
      ConfigError: two videos would have the same file.
    """
    files: dict[str, Path] = {}
    whose: dict[Path, str] = {}
    for path in paths:
        for video in find_videos([path]):
            single = os.path.normpath(video) == os.path.normpath(path)
            name = os.path.basename(os.path.abspath(video))
            name = name if single else os.path.relpath(video, path)
            target = Path(out, f"{name}.npz")
            if whose.setdefault(target, video) != video:
                raise ConfigError(
                    f"{whose[target]} and {video} would both be {target}: name the folder that "
                    "holds both, or extract them into two"
                )
            files[video] = target
    return files


def recipe_of(
    extraction: Extraction,
    model: Mapping[str, Any],
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
) -> str:
    """Everything that decides a feature's numbers but the video, as JSON; `network` is a digest
    of the weights."""
    digest = hashlib.sha256()
    for name, leaf in sorted(tree.flatten(variables).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    recipe = {
        **dataclasses.asdict(extraction),
        "model": dict(model),
        "network": digest.hexdigest()[:16],
        "preprocessing": dataclasses.asdict(preprocessing),
    }
    return json.dumps(recipe, sort_keys=True)


def is_extracted(target: Path, recipe: str) -> bool:
    """Whether a file holds the features of a recipe. One that is damaged does not.

    Raises:
      ConfigError: it holds the features of another recipe: the differences are listed.
    """
    try:
        with open(target, "rb") as stored, np.load(stored, allow_pickle=False) as file:
            found = str(file["recipe"])
            theirs, ours = json.loads(found), json.loads(recipe)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    if found == recipe:
        return True
    different = [
        f"{key}: {theirs.get(key)} there, {value} here"
        for key, value in ours.items()
        if theirs.get(key) != value
    ]
    raise ConfigError(
        f"{target} holds other features; name another --out.\n  " + "\n  ".join(different)
    )


def default_endpoint(model: Any, preprocessing: Preprocessing) -> str:
    """The last endpoint before the classes: what a classifier sees."""
    import jax

    last = []

    def forward(key, clip):
        # Inside, because what comes out of `eval_shape` has lost the network's order.
        (_, endpoints), _ = model.clone(num_classes=1).init_with_output(key, clip, train=False)
        last.append([name for name, value in endpoints.items() if value.shape[-1] != 1][-1])

    clip = jax.ShapeDtypeStruct((1, *preprocessing.shape), np.float32)
    jax.eval_shape(forward, jax.eval_shape(lambda: jax.random.key(0)), clip)
    return last[0]


def make_extractor(
    model: Any, variables: Mapping[str, Any], preprocessing: Preprocessing, extraction: Extraction
) -> Callable[[Any], dict[str, np.ndarray]]:
    """The function from a video, as `open_video` takes it, to its features; any number of threads
    may call it.

    It gives `features`, f32 `[C]`, `[clips, C]` if per clip, and with the map `[..., T, H, W, C]`;
    `starts`, the first frame of every clip, and `times`, the seconds from the video's first frame
    to it. It raises VideoError for a video that cannot be read, and ConfigError if the network
    has no such endpoint.
    """
    import jax

    from jaxvideo.models.folding import fold

    p = extraction.protocol.apply(preprocessing)
    if extraction.every and p.segments > 1:
        raise ConfigError("clips every so many frames are not made of segments: give clips")
    variables = fold(model, variables, p.shape)
    compute = _endpoint(model, p, extraction.endpoint, keep_map=extraction.keep_map)
    # One program; a CPU gains nothing from clips together.
    together = 1 if jax.default_backend() == "cpu" else _CLIPS
    one_at_a_time = threading.Lock()

    def features(clips: np.ndarray) -> Iterator[Any]:
        for first in range(0, len(clips), together):
            part = clips[first : first + together]
            missing = together - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
            with one_at_a_time:  # or two threads would compile
                found = compute(variables, filled.reshape(-1, *part.shape[2:]))
            yield found, part.shape[:2]

    def rows(video: VideoFile, clips: Sequence[Sequence[View]]) -> Iterator[np.ndarray]:
        """Per clip; the device computes while the next ones are read."""
        before = None
        for first in range(0, len(clips), _CLIPS):
            for now in features(_read_clips(video, clips[first : first + _CLIPS], p)):
                if before:
                    yield _over_crops(*before)
                before = now
        if before:
            yield _over_crops(*before)

    def extract(source: Any) -> dict[str, np.ndarray]:
        with open_video(source) as video:
            clips = _clips_of(video, p, extraction)
            starts = np.asarray([views[0].frames[0] for views in clips], np.int64)
            times = np.asarray(video.times)[starts]
            found = rows(video, clips)
            if extraction.per_clip:
                values = np.concatenate(list(found))
            else:
                values = sum(part.sum(0, dtype=np.float64) for part in found) / len(clips)
        if extraction.normalize:
            axes = tuple(range(int(extraction.per_clip), np.ndim(values)))
            norm = np.sqrt(np.square(values).sum(axes, keepdims=True))
            values = values / np.where(norm > 0, norm, 1)
        return {"features": np.asarray(values, np.float32), "starts": starts, "times": times}

    return extract


def write_features(target: Path, arrays: Mapping[str, Any]) -> None:
    """Writes an `.npz` whole or not at all, and the folders it lies in.

    Raises:
      ConfigError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def endpoint_features(
    paths: Iterable[str],
    model: Any,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    endpoint: str,
) -> np.ndarray:
    """An endpoint of the middle clip of every video, averaged over T, H and W: f32 `[M, C]`.

    Raises:
      ConfigError: the network has no such endpoint.
      VideoError: a video cannot be read.
    """
    extract = make_extractor(
        model, variables, preprocessing, Extraction(endpoint, Protocol(clips=1))
    )
    return np.stack([extract(path)["features"] for path in paths])


def _endpoint(model: Any, preprocessing: Preprocessing, endpoint: str, *, keep_map: bool):
    """`(variables, video [N, *video_shape]) -> f32 [N, C]`, or the whole endpoint."""
    import jax

    from jaxvideo.training.preprocess import prepare

    @jax.jit
    def compute(variables, video):
        clip = prepare(video, preprocessing, model.dtype)
        logits, endpoints = model.apply(variables, clip, train=False)
        endpoints = {**endpoints, "logits": logits, "prob": jax.nn.softmax(logits)}
        if endpoint not in endpoints:
            raise ConfigError(f"endpoint {endpoint!r}: the network has {', '.join(endpoints)}")
        found = endpoints[endpoint].astype(np.float32)
        return found if keep_map else found.mean(tuple(range(1, found.ndim - 1)))

    return compute


def _clips_of(video: VideoFile, p: Preprocessing, extraction: Extraction) -> list[list[View]]:
    n, times = video.num_frames, video.times
    size = n, video.height, video.width, video.fps
    if not extraction.every:
        return protocol_views(*size, p, extraction.protocol, times=times)
    (views,) = protocol_views(*size, p, _one_clip(extraction.protocol))
    step = frame_step(video.fps, p)
    starts = range(0, last_start(n, p.snippet, step) + 1, extraction.every)
    shown = times if p.fps and n > 1 and times[-1] > 0 else None
    frames = [
        clip_frames(start, p.snippet, step, n, short=p.short, times=shown) for start in starts
    ]
    return [[dataclasses.replace(view, frames=own) for view in views] for own in frames]


def _one_clip(protocol: Protocol) -> Protocol:
    return dataclasses.replace(protocol, clips=1, starts="ends")


def _read_clips(video: VideoFile, clips: Sequence[Sequence[View]], p: Preprocessing) -> np.ndarray:
    """uint8 `[clips, crops, *video_shape]`; a frame of several clips is decoded once."""
    if p.host_flow:  # which is of pairs of frames
        return np.stack([read_views(video, views, p) for views in clips])
    # Black ones last, as in a clip.
    wanted = {index for views in clips for index in views[0].frames}
    frames = sorted(wanted - {BLACK}) + [BLACK] * (BLACK in wanted)
    place = {index: number for number, index in enumerate(frames)}
    together = [dataclasses.replace(view, frames=tuple(frames)) for view in clips[0]]
    read = read_views(video, together, p)
    return np.stack([read[:, [place[index] for index in views[0].frames]] for views in clips])


def _over_crops(found: Any, shape: tuple[int, int]) -> np.ndarray:
    """`[clips, ...]` of an endpoint `[together * crops, ...]`, whose last clips may be filling."""
    clips, crops = shape
    values = np.asarray(found)
    return values.reshape(-1, crops, *values.shape[1:])[:clips].mean(1)


def _fields(video: VideoFile, method: str, size: int) -> Iterator[np.ndarray]:
    scale = min(size / min(video.height, video.width), 1.0)
    height, width = round(video.height * scale), round(video.width * scale)
    for first in range(0, video.num_frames - 1, _BLOCK):
        last = min(first + _BLOCK, video.num_frames - 1)
        yield from _block_flow(read_frames(video, first, last + 1, height, width), method)


def _block_flow(frames: np.ndarray, method: str) -> np.ndarray:
    name, warped = method.removeprefix("warped_"), method.startswith("warped_")
    if name in HOST_FLOWS:
        compute = flow.warped_flow if warped else flow.host_flow
        return flow.quantize(compute(frames, name))
    seconds = flow.compensated(frames) if warped else frames[1:]
    return _tvl1(frames[:-1], seconds)


def _tvl1(frames: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    import jax

    # A block that is not full is filled, so that one program serves all videos of a size.
    missing = [(0, _BLOCK - len(frames)), *[(0, 0)] * 3]
    filled = (np.pad(part, missing) for part in (frames, seconds))
    together = 1 if jax.default_backend() == "cpu" else _BLOCK
    return np.asarray(_solver(together)(*filled))[: len(frames)]


@functools.cache
def _solver(together: int):
    import jax

    from jaxvideo.layers.tvl1 import quantize, to_gray, tvl1

    def solve(pair):
        first, second = (to_gray(frame)[None] for frame in pair)
        return quantize(tvl1(first, second))[0]

    return jax.jit(lambda *pairs: jax.lax.map(solve, pairs, batch_size=together))
