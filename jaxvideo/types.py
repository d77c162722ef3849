"""The vocabulary: the types that several parts of the library share. Read this first.

Axes are named N (batch), T (frames), H, W and C (channels). Arrays are always NTHWC, which XLA
calls NDHWC. A *video* is uint8 `[T, H, W, C]` on the host. A *clip* is the input of a network:
float `[N, T, H, W, C]`, normalized on the device as a `Preprocessing` states. A *view* is the
frames and the window of a video that become a clip.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Collection, Mapping
from typing import Any

from jaxvideo.names import one_line


class JaxvideoError(Exception):
    """Base class of errors that a user can fix; the message suffices without a traceback."""


class DataError(JaxvideoError):
    """A data set, annotation file or folder is missing or invalid."""


class VideoError(DataError):
    """A video cannot be read; the message names the file and the reason, in one line."""

    def __init__(self, message: str):
        super().__init__(one_line(message))  # file names may contain line breaks


class ConfigError(JaxvideoError, ValueError):
    """A name or value in a config or an argument is not allowed."""


class UsageError(ConfigError):
    """A command, option, config key, network or other name does not exist, or a value is not
    allowed. The command line adds the usage of the command, and its exit status is 2."""


class CheckpointError(JaxvideoError):
    """A checkpoint or run directory is missing, unreadable, or of another model or config."""


class TrainingError(JaxvideoError):
    """Training cannot continue, for example because the loss is not finite."""


class Interrupted(JaxvideoError):
    """A run received a stop request and has saved its state; this is not a failure."""


class Lowering(enum.Enum):
    """Implementation of a 3-D convolution. All have the same parameters and the same result.

    The fastest one depends on platform and shape; `layers.lowerings.resolve` selects it.
    """

    AUTO = "auto"  #: selected by `layers.lowerings.resolve`
    DIRECT = "direct"  #: `lax.conv_general_dilated` in NDHWC
    FOLD_TIME = "fold_time"  #: kernel (1,k,k): 2-D convolution with time folded into the batch
    FOLD_SPACE = "fold_space"  #: kernel (k,1,1): 2-D convolution over (T, H*W)
    TIME_TO_CHANNELS = "time_to_channels"  #: 2-D convolution of time taps stacked as channels
    TIME_FROM_CHANNELS = "time_from_channels"  #: 2-D convolution to all time taps, then a sum
    SPACE_TO_DEPTH = "space_to_depth"  #: adjacent columns packed into channels
    WINOGRAD = "winograd"  #: kernel (k,3,3), stride 1: 16 instead of 36 multiplications
    MATMUL = "matmul"  #: kernel (1,1,1): strided slice, then a matrix product
    UNFOLD = "unfold"  #: im2col: a matrix product per block of unfolded input
    GROUP_BY_GROUP = "group_by_group"  #: grouped: a loop over ungrouped convolutions
    SHIFT = "shift"  #: depthwise: a sum of shifted and scaled copies
    ONEDNN = "onednn"  #: CPU: the oneDNN library in jaxlib


@dataclasses.dataclass(frozen=True)
class Window:
    """A rectangle in pixels of the decoded, upright frame."""

    top: int
    left: int
    height: int
    width: int


#: Sentinel frame index in `View.frames`: a black padding frame.
BLACK = -1


@dataclasses.dataclass(frozen=True)
class View:
    """The frames and the window of a video that become one clip.

    In training a view is drawn at random (mirroring happens on the device); a test protocol is a
    list of views.

    Attributes:
      frames: frame indices in presentation order, or `BLACK`. They ascend unless a short video is
        looped.
      window: the part of each frame.
      mirrored: True if the window is mirrored horizontally.
    """

    frames: tuple[int, ...]
    window: Window
    mirrored: bool = False


#: Number of channels of a clip by modality.
CHANNELS = {"rgb": 3, "rgb_diff": 3, "flow": 2, "rgb_flow": 5}

#: Flow methods of OpenCV, computed on the host.
HOST_FLOWS = ("farneback", "dis", "dualtvl1")
#: Sources of flow. "tvl1": computed on the device. A row of `HOST_FLOWS`: computed on the host;
#: with the prefix "warped_", after compensation for camera motion. "stored": read from files that
#: `jaxvideo flow` writes.
FLOWS = ("tvl1", *HOST_FLOWS, *(f"warped_{method}" for method in HOST_FLOWS), "stored")

#: How the frames of a clip are spaced, see `Preprocessing.spacing`.
SPACINGS = ("stride", "linspace")
#: How to pad a clip if the video is shorter than the clip.
SHORT = ("loop", "hold", "pad")

#: Where decoded frames are converted to RGB: on the device or on the host.
PIXELS = ("yuv", "rgb")


def _check_rows(section: str, values: Any, allowed: Mapping[str, Collection[Any]]) -> None:
    """Raises a UsageError if a value is not in its table."""
    for name, rows in allowed.items():
        if (value := getattr(values, name)) not in rows:
            raise UsageError(f"{section}.{name}={value!r}: allowed are {', '.join(map(str, rows))}")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The input that a network expects. It is stored with weights and checkpoints.

    Attributes:
      frames: T, number of frames of a clip.
      stride: distance of the frames of a clip, in frames of the video, or of `fps` if given.
      fps: frame rate in which `stride` counts; None: the rate of the file. If given, frames are
        selected by their presentation times, also if the frame rate varies.
      size: short side in pixels that frames are scaled to, with their aspect preserved.
      width: if not 0, frames are scaled to `size` x `width` pixels instead, without preserving
        their aspect (C3D and R(2+1)D: 128 x 171).
      crop: side of the square input in pixels.
      range: values that uint8 0 and 255 are mapped to, before `mean` and `std`.
      mean, std: per channel, in units of `range` and in the order of `order`.
      order: channel order of the input: "RGB", or "BGR" for networks trained in Caffe. Videos are
        RGB until they are normalized.
      modality: a row of `CHANNELS`. "rgb". "rgb_diff": the next frame minus this one, both
        normalized. "flow": x and y, uint8 0 to 255 for -20 to 20 pixels, as stored flow of
        Kinetics. "rgb_flow": both, RGB first.
      flow: a row of `FLOWS`, for modalities with flow. It is computed from the scaled and cropped
        frames, unless it is stored.
      segments: number of snippets of a clip, each with `frames / segments` frames. The video is
        divided into that number of equal parts, with one snippet from each part (TSN). 1 (default):
        one snippet.
      short: how to pad a clip if the video is shorter than the clip. "loop": repeat the video (I3D,
        3D ResNet). "hold": repeat the last frame (the code of TSN, SlowFast and X3D). "pad": black
        frames; only for RGB, because flow to a black frame is undefined.
      spacing: how the frames of a clip are spaced. "stride" (default): frame i is `i * stride`
        frames after the first. "linspace": T frames are spread uniformly over `T * stride` frames,
        from the first to the last: frame i is `i * (T * stride - 1) / (T - 1)` frames after the
        first, rounded down (`temporal_sampling` in PySlowFast and `uniform_temporal_subsample` in
        pytorchvideo); starts are then not rounded.
      square_pixels: True if frames are seen as players show them, with the sample aspect ratio of
        the file. False (default): pixels are taken as square, as in all libraries that published
        weights come from. Packed videos do not store the ratio.
      pixels: where frames become RGB. "yuv" (default): on the device; the host transfers 4:2:0
        planes, which takes half the bytes and less time. "rgb": on the host, by FFmpeg, as in
        libraries for PyTorch; values differ from "yuv" by one or two levels on average. Does not
        apply if the host computes or loads optical flow.
    """

    frames: int
    stride: int = 1
    fps: float | None = None
    size: int = 128
    width: int = 0
    crop: int = 112
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    order: str = "RGB"
    modality: str = "rgb"
    flow: str = "tvl1"
    segments: int = 1
    short: str = "loop"
    spacing: str = "stride"
    square_pixels: bool = False
    pixels: str = "yuv"

    def __post_init__(self):
        # JSON and config files contain lists; hashing and comparing require tuples.
        for name in ("range", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        rows = {"modality": CHANNELS, "flow": FLOWS, "short": SHORT, "spacing": SPACINGS}
        _check_rows("preprocessing", self, rows | {"pixels": PIXELS, "order": ("RGB", "BGR")})
        for name in ("frames", "stride", "crop"):
            if getattr(self, name) < 1:
                raise ConfigError(f"preprocessing.{name}={getattr(self, name)}: must be at least 1")
        if min(self.size, self.width or self.size) < self.crop:
            raise ConfigError(
                f"preprocessing.size={self.size}, width={self.width}, crop={self.crop}: size and "
                "width (unless 0) must be at least crop"
            )
        if self.fps is not None and self.fps <= 0:
            raise ConfigError(f"preprocessing.fps={self.fps}: must be positive or None")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing.mean={self.mean}, std={self.std}: must have the same length, and "
                "std must be positive"
            )
        channels = CHANNELS[self.modality]
        if len(self.mean) != channels:
            raise ConfigError(
                f"preprocessing.mean={self.mean}, std={self.std}: must have {channels} numbers "
                f"each for modality={self.modality!r}"
            )
        if self.segments < 1 or self.frames % self.segments:
            raise ConfigError(
                f"preprocessing.segments={self.segments} must divide frames={self.frames}"
            )
        if self.short == "pad" and self.modality != "rgb":
            raise ConfigError(
                f"preprocessing.short='pad', modality={self.modality!r}: 'pad' requires modality "
                "'rgb'"
            )

    @property
    def snippet(self) -> int:
        """Number of frames to read per segment; motion needs one more than the network's input."""
        return self.frames // self.segments + (self.modality != "rgb")

    @property
    def host_flow(self) -> bool:
        """True if the host computes or loads optical flow; otherwise the device computes it."""
        return "flow" in self.modality and self.flow != "tvl1"

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one uint8 clip before normalization: RGB frames, or flow of the host."""
        if self.host_flow:
            return self.shape
        return (self.segments * self.snippet, self.crop, self.crop, 3)

    @property
    def transfer_shape(self) -> tuple[int, ...]:
        """Shape of one uint8 clip as the host transfers it: `video_shape`, or (T, bytes).

        A frame of "yuv" is Y, Cb and Cr at half the resolution, and the index of its matrix.
        """
        if self.pixels == "rgb" or self.host_flow:
            return self.video_shape
        half = (self.crop + 1) // 2
        return (self.segments * self.snippet, self.crop**2 + 2 * half**2 + 1)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one clip."""
        return (self.frames, self.crop, self.crop, len(self.mean))


#: Positions of the clips of a test protocol, see `Protocol.starts`.
STARTS = ("ends", "centers", "parts", "dense", "windows")
#: Scores that a test protocol averages over views, see `Protocol.aggregation`.
AGGREGATIONS = ("softmax", "sigmoid", "logits")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Test protocol: the views of a video, and the average over their scores.

    Attributes:
      clips: number of clips per video. Must be 0 if `starts="windows"`; the number of windows
        follows from the video's length.
      crops: crops per clip: 1 (center), 3 (along the longer side), 5 (corners and center) or 10
        (these 5, and mirrored).
      aggregation: what is averaged over the views. "softmax": probabilities of exclusive classes.
        "sigmoid": probabilities of several labels. "logits": logits.
      frames, crop, segments: `Preprocessing` of a test clip; 0 (default): the training value. TSN
        tests single snippets, with 1 segment.
      starts: starts of the clips. "ends": spread uniformly from the first to the last possible
        start; a single clip is in the middle. "centers": the centers of equal parts of the possible
        starts (TSN). "parts": the beginnings of these parts (PySlowFast and pytorchvideo, with
        `spacing="linspace"`). "dense": as "ends",
        but for clips of `frames * stride` frames (TSM's code: 64). "windows": all clips that do not
        overlap, the last one padded with its own frames (3D ResNet's code).
    """

    clips: int = 10
    crops: int = 1
    aggregation: str = "softmax"
    frames: int = 0
    crop: int = 0
    segments: int = 0
    starts: str = "ends"

    def __post_init__(self):
        rows = {"crops": (1, 3, 5, 10), "starts": STARTS, "aggregation": AGGREGATIONS}
        _check_rows("protocol", self, rows)
        if self.starts == "windows":
            if self.clips:
                raise ConfigError(
                    f"protocol.clips={self.clips}, starts='windows': clips must be 0; the number "
                    "of windows follows from the video's length"
                )
        elif self.clips < 1:
            raise ConfigError(f"protocol.clips={self.clips}: must be at least 1")
        for name in ("frames", "crop", "segments"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"protocol.{name}={getattr(self, name)}: must be positive, or 0 for the "
                    "training value"
                )

    def apply(self, preprocessing: Preprocessing) -> Preprocessing:
        """Returns the preprocessing of a test clip.

        Raises:
          ConfigError: the starts do not support several segments.
        """
        p = dataclasses.replace(
            preprocessing,
            frames=self.frames or preprocessing.frames,
            crop=self.crop or preprocessing.crop,
            segments=self.segments or preprocessing.segments,
        )
        if p.segments > 1 and self.starts in ("dense", "windows"):
            raise ConfigError(
                f"protocol.starts={self.starts!r}, segments={p.segments}: these starts require 1 "
                "segment; set protocol.segments=1"
            )
        if p.spacing == "linspace" and self.starts == "windows":
            raise ConfigError(
                "protocol.starts='windows', preprocessing.spacing='linspace': windows require "
                "preprocessing.spacing='stride'"
            )
        return p

    def describe(self, preprocessing: Preprocessing, stored: str = "") -> str:
        """Describes the protocol completely in one line, to compare published results.

        Args:
          preprocessing: preprocessing of training.
          stored: how stored flow was computed, if it is used and known.
        """
        return f"{self.describe_views(preprocessing, stored)}, mean of {self.aggregation}"

    def describe_views(self, preprocessing: Preprocessing, stored: str = "") -> str:
        """Describes the views of a video; part of `describe`."""
        count = f"{self.clips} clip{'s' * (self.clips > 1)}" if self.clips else "all windows"
        return f"{count} x {self.describe_clip(preprocessing, stored)}"

    def describe_clip(self, preprocessing: Preprocessing, stored: str = "") -> str:
        """Describes crops, frames and scale of a clip; part of `describe_views`."""
        p = self.apply(preprocessing)
        rate = f" at {p.fps:g} fps" if p.fps else ""
        scaled = f"scaled to {p.size} x {p.width}" if p.width else f"short side {p.size}"
        crops = "center crop" if self.crops == 1 else f"{self.crops} crops"
        starts = {
            "centers": " from the centers of equal parts",
            "parts": " of equal parts",
            "dense": f" of windows of {p.frames * p.stride} frames",
        }
        crops += starts.get(self.starts, "")
        frames = f"{p.frames} frame{'s' * (p.frames > 1)}" + f" in {p.segments} segments" * (
            p.segments > 1
        )
        if p.modality != "rgb":
            frames += f" of {p.modality}" + f" by {stored or p.flow}" * ("flow" in p.modality)
        if p.short != "loop":
            frames += {"hold": ", last frame repeated", "pad": ", padded with black"}[p.short]
        stride = f"stride {p.stride}" + ", spread to the last frame" * (p.spacing == "linspace")
        square = ", square pixels" * p.square_pixels
        return f"{crops} per video ({frames}, {stride}{rate}, {scaled}, crop {p.crop}{square})"


# --- The contract of networks ---------------------------------------------------------------


class Model(typing.Protocol):
    """The contract of every network: a linen module with these fields and this call.

    `jaxvideo.register` checks it for networks from outside the package. `Network`, training,
    weight import and feature extraction rely on it, and on nothing else.

    Attributes:
      num_classes: number of classes.
      dtype: compute dtype of the activations. Parameters, statistics and logits are f32.
      lowering: implementation of the convolutions; it does not change the result.
      head: scope of the classifier in `params`, e.g. "fc" or "temporal/fc8"; a tuple of scopes if
        several parts of the network have a classifier each, e.g. the streams of a late fusion.
        Every parameter in it ends in `num_classes`; nothing else depends on `num_classes`. It is
        a class attribute without annotation (`head = "fc"`) or a property, not a field.

    Optional fields, with the same meaning in every network that has them:
      width: factor of all numbers of channels; 1.0 (default) is the paper's network.
      dropout_rate: rate of the dropout layers in training.
      bn_groups: number of groups of the batch with BatchNorm statistics of their own.
      bn_momentum: weight of the old value in the running statistics.
      bn_epsilon: epsilon of BatchNorm.
    """

    num_classes: int
    dtype: typing.Any
    lowering: typing.Any

    @property
    def head(self) -> str | tuple[str, ...]:
        """Scope of the classifier in `params`."""
        ...

    def __call__(
        self, clip: typing.Any, /, *, train: bool
    ) -> tuple[typing.Any, dict[str, typing.Any]]:
        """Computes the logits and all endpoints.

        Args:
          clip: floating-point `[N, T, H, W, C]`, normalized.
          train: True in training: dropout is active and BatchNorm uses the batch's statistics.

        Returns:
          `(logits, endpoints)`. Logits are f32 `[N, num_classes]` with `train=False`. With
          `train=True` they may be `[N, predictions, num_classes]` if the paper has a loss for
          each of several predictions (streams, time steps); the losses are averaged.
          `endpoints` is a dict in network order, whose keys are the names of the paper's layers.
          The last two keys are the same in every network:
            pre_logits: input of the classifier before dropout, `[N, ..., C]`. Axes between N
              and C are the positions, segments or time steps that are classified one by one. If
              `head` is a tuple, it is the concatenation of the inputs of all classifiers over C.
            logits: the logits.

        Raises:
          ConfigError: the clip has another shape, dtype or number of channels.
        """
        ...
