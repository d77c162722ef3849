"""Features of whole videos: endpoints of a network, averaged over clips and crops."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.data.pipeline import as_stored, read_views
from jaxvideo.data.samplers import distance, last_start
from jaxvideo.data.video import VideoFile, find_videos, open_video
from jaxvideo.data.views import clip_frames, frame_step, protocol_views
from jaxvideo.names import did_you_mean
from jaxvideo.progress import replacing
from jaxvideo.types import (
    BLACK,
    ConfigError,
    Preprocessing,
    Protocol,
    UsageError,
    View,
)
from jaxvideo.weights import tree

# Clips per read. Frames that they share are decoded once.
_CLIPS = 8


@dataclasses.dataclass(frozen=True)
class Extraction:
    """The features to extract from every video.

    Attributes:
      endpoint: a key of the network's endpoints, e.g. "pre_logits" or "logits"; or "prob", the
        softmax of the logits.
      protocol: the clips and crops. Features are averaged over the crops.
      every: start a clip every `every` frames, instead of at the protocol's starts (C3D: clips of
        16 frames, every 8). 0 (default): use the protocol.
      per_clip: one row per clip. False (default): average over the clips.
      keep_map: keep all axes of the endpoint. False (default): average over the axes between N and
        C.
      normalize: divide the result by its L2 norm (C3D, arXiv 1412.0767, section 4).
    """

    endpoint: str
    protocol: Protocol
    every: int = 0
    per_clip: bool = False
    keep_map: bool = False
    normalize: bool = False

    def __post_init__(self):
        if self.every < 0:
            raise ConfigError(f"every={self.every}: must be at least 1, or 0 to use the protocol")

    def describe(self, preprocessing: Preprocessing) -> str:
        """Returns one line that describes the features; it is stored with them."""
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
    """Maps each video to its feature file, `out/NAME.npz`, see `output_paths`."""
    return output_paths(paths, out, ".npz")


def output_paths(
    paths: Sequence[str], out: str | os.PathLike[str], ending: str = ""
) -> dict[str, Path]:
    """Maps each video to `out/NAME` with the ending.

    NAME is the path of the video relative to its directory in `paths`. For a video that `paths`
    lists itself, NAME is the file name.

    Args:
      paths: videos and directories of videos.
      out: output directory.

    Raises:
      DataError: a path does not exist or contains no videos.
      ConfigError: two videos would have the same output.
    """
    files: dict[str, Path] = {}
    whose: dict[Path, str] = {}
    for path in paths:
        for video in find_videos([path]):
            single = os.path.normpath(video) == os.path.normpath(path)
            name = os.path.basename(os.path.abspath(video))
            name = name if single else os.path.relpath(video, path)
            target = Path(out, f"{name}{ending}")
            if whose.setdefault(target, video) != video:
                raise ConfigError(
                    f"{whose[target]} and {video} would both be written to {target}; pass the "
                    "directory that contains both, or write them into two directories"
                )
            files[video] = target
    return files


def recipe_of(
    settings: Extraction | Protocol,
    model: Mapping[str, Any],
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
) -> str:
    """Returns everything that determines the features or scores of a video, as JSON.

    Args:
      settings: the features to extract, or the protocol of scores.
      model: name and arguments of the network.
      variables: variables of the network; the recipe stores their SHA-256 as "network".
      preprocessing: preprocessing of the clips.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(tree.flatten(variables).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    recipe = {
        **dataclasses.asdict(settings),
        "model": dict(model),
        "network": digest.hexdigest()[:16],
        "preprocessing": dataclasses.asdict(preprocessing),
    }
    return json.dumps(recipe, sort_keys=True)


def is_extracted(target: Path, recipe: str) -> bool:
    """Returns True if a file has features of this recipe, False if it is missing or damaged.

    Args:
      target: the feature file.
      recipe: result of `recipe_of`.

    Raises:
      ConfigError: the file has features of another recipe; the message lists the differences.
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
        f"{key}: {theirs.get(key)} in the file, {value} requested"
        for key, value in ours.items()
        if theirs.get(key) != value
    ]
    raise ConfigError(
        f"{target} has features of other settings; choose another --out.\n  "
        + "\n  ".join(different)
    )


def make_extractor(
    model: Any, variables: Mapping[str, Any], preprocessing: Preprocessing, extraction: Extraction
) -> Callable[[Any], dict[str, np.ndarray]]:
    """Returns a thread-safe function that extracts the features of a video.

    Args:
      model: the network.
      variables: variables of the network.
      preprocessing: the clips that the weights expect.
      extraction: the features to extract.

    Returns:
      A function of a video (see `data.video.open_video`). It returns a dict:

      - features: f32 `[C]`; `[clips, C]` if per clip; with `keep_map` all axes of the endpoint.
      - starts: i64 `[clips]`, index of the first frame of each clip.
      - times: f64 `[clips]`, presentation time of that frame in seconds.

      It raises VideoError if the video cannot be read, and ConfigError if the network has no such
      endpoint.

    Example:
      what = Extraction("pre_logits", Protocol(clips=1))
      extract = make_extractor(net.model, net.variables, net.preprocessing, what)
      extract("clip.mp4")["features"]
    """
    import jax

    from jaxvideo.models.folding import fold

    p = extraction.protocol.apply(preprocessing)
    if extraction.every and p.segments > 1:
        raise ConfigError(
            f"every={extraction.every}: clips of {p.segments} segments cover the whole video; use "
            "the protocol's clips instead"
        )
    variables = fold(model, variables, p.shape)
    compute = _endpoint(model, p, extraction.endpoint, keep_map=extraction.keep_map)
    # All batches have one size, so that one program is compiled. CPUs gain nothing by batching.
    together = 1 if jax.default_backend() == "cpu" else _CLIPS
    one_at_a_time = threading.Lock()

    def features(clips: np.ndarray) -> Iterator[Any]:
        for first in range(0, len(clips), together):
            part = clips[first : first + together]
            missing = together - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
            with one_at_a_time:  # otherwise two threads would compile the same program
                found = compute(variables, filled.reshape(-1, *part.shape[2:]))
            yield found, part.shape[:2]

    def rows(
        video: VideoFile, clips: Sequence[Sequence[View]], p: Preprocessing
    ) -> Iterator[np.ndarray]:
        """Yields features per clip. The device computes while the next clips are decoded."""
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
            stored = as_stored(video, p)
            clips = _clips_of(video, p, extraction)
            starts = np.asarray([views[0].frames[0] for views in clips], np.int64)
            times = np.asarray(video.times)[starts]
            # A short video has equal clips, which are computed once.
            equal = [(views, len(list(same))) for views, same in itertools.groupby(clips)]
            found = rows(video, [views for views, _ in equal], stored)
            repeats = np.asarray([count for _, count in equal], np.int64)
            if extraction.per_clip:
                values = np.repeat(np.concatenate(list(found)), repeats, 0)
            else:
                values, done = 0.0, 0
                for part in found:
                    counts = repeats[done : done + len(part)]
                    values = values + np.tensordot(counts, part.astype(np.float64), 1)
                    done += len(part)
                values = values / len(clips)
        if extraction.normalize:
            axes = tuple(range(int(extraction.per_clip), np.ndim(values)))
            norm = np.sqrt(np.square(values).sum(axes, keepdims=True))
            values = values / np.where(norm > 0, norm, 1)
        return {"features": np.asarray(values, np.float32), "starts": starts, "times": times}

    return extract


def write_features(target: Path, arrays: Mapping[str, Any]) -> None:
    """Writes an `.npz` file atomically and creates its directory.

    Raises:
      ConfigError: the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({error.strerror})") from error


def _endpoint(model: Any, preprocessing: Preprocessing, endpoint: str, *, keep_map: bool):
    """Returns `(variables, uint8 [N, *transfer_shape]) -> f32 [N, C]`, or the whole endpoint."""
    import jax

    from jaxvideo.inference.prepare import prepare

    @jax.jit
    def compute(variables, video):
        clip = prepare(video, preprocessing, model.dtype)
        logits, endpoints = model.apply(variables, clip, train=False)
        endpoints = {**endpoints, "logits": logits, "prob": jax.nn.softmax(logits)}
        if endpoint not in endpoints:
            raise UsageError(
                f"endpoint={endpoint!r}: {type(model).__name__} has no such endpoint."
                f"{did_you_mean(endpoint, endpoints)} Allowed are {', '.join(endpoints)}"
            )
        found = endpoints[endpoint].astype(np.float32)
        return found if keep_map else found.mean(tuple(range(1, found.ndim - 1)))

    return compute


def _clips_of(video: VideoFile, p: Preprocessing, extraction: Extraction) -> list[list[View]]:
    n, times, aspect = video.num_frames, video.times, video.pixel_aspect
    size = n, video.height, video.width, video.fps
    if not extraction.every:
        return protocol_views(*size, p, extraction.protocol, times=times, pixel_aspect=aspect)
    (views,) = protocol_views(*size, p, _one_clip(extraction.protocol), pixel_aspect=aspect)
    step = distance(frame_step(video.fps, p), p)
    starts = range(0, last_start(n, p.snippet, step) + 1, extraction.every)
    shown = times if p.fps and n > 1 and times[-1] > 0 else None
    frames = [
        clip_frames(start, p.snippet, step, n, short=p.short, times=shown) for start in starts
    ]
    return [[dataclasses.replace(view, frames=own) for view in views] for own in frames]


def _one_clip(protocol: Protocol) -> Protocol:
    return dataclasses.replace(protocol, clips=1, starts="ends")


def _read_clips(video: VideoFile, clips: Sequence[Sequence[View]], p: Preprocessing) -> np.ndarray:
    """Returns uint8 `[clips, crops, *transfer_shape]`; frames of several clips are decoded once."""
    if p.host_flow:  # Flow is stored per pair of frames, and clips do not share pairs.
        return np.stack([read_views(video, views, p) for views in clips])
    # Black padding frames are last, as in a clip.
    wanted = {index for views in clips for index in views[0].frames}
    frames = sorted(wanted - {BLACK}) + [BLACK] * (BLACK in wanted)
    place = {index: number for number, index in enumerate(frames)}
    together = [dataclasses.replace(view, frames=tuple(frames)) for view in clips[0]]
    read = read_views(video, together, p)
    return np.stack([read[:, [place[index] for index in views[0].frames]] for views in clips])


def _over_crops(found: Any, shape: tuple[int, int]) -> np.ndarray:
    """Averages `[together * crops, ...]` over the crops and drops the padding: `[clips, ...]`."""
    clips, crops = shape
    values = np.asarray(found)
    return values.reshape(-1, crops, *values.shape[1:])[:clips].mean(1)
