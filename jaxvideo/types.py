"""The vocabulary: every word that more than one part of the library uses. Read this first.

Axes are named N (batch), T (frames), H, W, C everywhere, and arrays are always NTHWC,
which is XLA's NDHWC. A *video* is uint8 `[T, H, W, C]` on the host, a *clip* is what a
network sees: float `[N, T, H, W, C]`, normalized on the device by a `Preprocessing`.
"""

from __future__ import annotations

import dataclasses
import enum
import typing


class JaxvideoError(Exception):
    """Base of the errors a user can cause; the message is complete without a traceback."""


class DataError(JaxvideoError):
    """A data set, an annotation file or a folder is not what was asked for."""


class VideoError(DataError):
    """One video cannot be read; the message names the file and the reason."""


class ConfigError(JaxvideoError, ValueError):
    """A name or a value in a config or a call is not allowed."""


class CheckpointError(JaxvideoError):
    """A checkpoint or a run's folder is missing, unreadable or belongs to something else."""


class TrainingError(JaxvideoError):
    """Training cannot go on (for instance: the loss is not finite)."""


class Interrupted(JaxvideoError):
    """A run was asked to stop, and has saved its state: no failure."""


class Lowering(enum.Enum):
    """HOW a 3-D convolution is computed, never WHAT: same parameters, same result.

    Which one wins depends on platform and shape; `layers.lowerings.resolve` knows.
    """

    AUTO = "auto"  #: chosen by `layers.lowerings.resolve`, per platform
    DIRECT = "direct"  #: `lax.conv_general_dilated` in NDHWC
    FOLD_TIME = "fold_time"  #: kernel (1,k,k): time folded into the batch, then 2-D
    FOLD_SPACE = "fold_space"  #: kernel (k,1,1): 2-D convolution over (T, H*W)
    TIME_TO_CHANNELS = "time_to_channels"  #: time taps concatenated into channels, then 2-D
    TIME_FROM_CHANNELS = "time_from_channels"  #: all time taps as 2-D features, then summed
    SPACE_TO_DEPTH = "space_to_depth"  #: neighboring columns side by side in the channels
    WINOGRAD = "winograd"  #: kernel (k,3,3), stride 1: 16 multiplications for 36
    MATMUL = "matmul"  #: kernel (1,1,1): strided slice, then one matrix product
    UNFOLD = "unfold"  #: im2col: a matrix product per block of unfolded input
    GROUP_BY_GROUP = "group_by_group"  #: grouped: a loop over plain convolutions
    SHIFT = "shift"  #: depthwise: a sum of shifted, scaled copies
    ONEDNN = "onednn"  #: CPU: the oneDNN library inside jaxlib


@dataclasses.dataclass(frozen=True)
class Window:
    """A rectangle of a frame, in pixels of the decoded (upright) frame."""

    top: int
    left: int
    height: int
    width: int


#: In a View's `frames`: no frame of the video, a black one.
BLACK = -1


@dataclasses.dataclass(frozen=True)
class View:
    """Which frames and which crop of a video: all that a sampling scheme decides.

    `frames` are indices into the video's presentation order, ascending unless a short
    video is looped, or `BLACK`; `mirrored`, left to right. Training draws one view at random
    (and mirrors on the device), a test protocol is a list of them.
    """

    frames: tuple[int, ...]
    window: Window
    mirrored: bool = False


#: Channels of a clip by what it shows.
CHANNELS = {"rgb": 3, "rgb_diff": 3, "flow": 2, "rgb_flow": 5}

#: Where flow comes from: TV-L1 in the compiled step; OpenCV's methods while reading, also with
#: the camera's motion taken out; files beside the videos (`python -m jaxvideo flow`).
HOST_FLOWS = ("farneback", "dis", "dualtvl1")
FLOWS = ("tvl1", *HOST_FLOWS, *(f"warped_{method}" for method in HOST_FLOWS), "stored")

#: What fills a clip that is longer than its video.
SHORT = ("loop", "hold", "pad")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input. It travels with weights and checkpoints.

    Attributes:
      frames: T, frames of one clip that the network sees.
      stride: distance between them, in frames of the video (of `fps` if that is given).
      fps: frame rate the stride counts in, or None for whatever the file has. Where it is
        given, the frames' own times decide, also in a video of variable frame rate.
      size: short side in pixels that a frame is scaled to, its aspect kept.
      width: if not 0, frames are scaled to `size` x `width`, whatever their aspect (C3D and
        R(2+1)D: 128 x 171).
      crop: side in pixels of the square the network sees.
      range: the values that uint8 0 and 255 are mapped to before mean and std.
      mean, std: per channel, in units of `range` and in the order of `order`.
      order: "RGB", or "BGR" for networks born in Caffe; videos are RGB until `normalize`.
      modality: a row of `CHANNELS`: "rgb"; "rgb_diff", the next frame less this one, both
        normalized; "flow", x and y in bytes, 0 to 255 for -20 to 20 pixels, as Kinetics' flow
        is kept; "rgb_flow", both, RGB first.
      flow: a row of `FLOWS`, for the modalities that have it. It is of the scaled and cropped
        frames, except where it is stored: then of the frames it was computed from.
      segments: the clip is that many snippets of `frames / segments` frames, one out of each
        equal part of the video (TSN); 1 is frames in a row.
      short: what fills a clip that is longer than its video: "loop", the video again (I3D,
        3D ResNet); "hold", its last frame (TSN, SlowFast, X3D: their code); "pad", black frames
        (RGB only, as a cut to black is no motion).
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

    def __post_init__(self):
        # JSON and config files know lists only; hashing and comparing need tuples.
        for name in ("range", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name in ("frames", "stride", "crop"):
            if getattr(self, name) < 1:
                raise ConfigError(f"preprocessing.{name}={getattr(self, name)}: must be at least 1")
        if min(self.size, self.width or self.size) < self.crop:
            raise ConfigError(
                f"preprocessing.size={self.size}, width={self.width}, crop={self.crop}: frames "
                "must be scaled to at least the crop"
            )
        if self.fps is not None and self.fps <= 0:
            raise ConfigError(f"preprocessing.fps={self.fps}: must be positive, or None")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing.mean={self.mean}, std={self.std}: one positive std per mean"
            )
        if self.modality not in CHANNELS:
            raise ConfigError(
                f"preprocessing.modality={self.modality!r}: allowed are {', '.join(CHANNELS)}"
            )
        if self.flow not in FLOWS:
            raise ConfigError(f"preprocessing.flow={self.flow!r}: allowed are {', '.join(FLOWS)}")
        channels = CHANNELS[self.modality]
        if len(self.mean) != channels:
            raise ConfigError(
                f"preprocessing.mean={self.mean}, std={self.std}: {channels} numbers each "
                f"for {self.modality!r}"
            )
        if self.segments < 1 or self.frames % self.segments:
            raise ConfigError(
                f"preprocessing.segments={self.segments} must divide frames={self.frames}"
            )
        if self.short not in SHORT:
            raise ConfigError(f"preprocessing.short={self.short!r}: allowed are {', '.join(SHORT)}")
        if self.short == "pad" and self.modality != "rgb":
            raise ConfigError(
                f"preprocessing.short='pad', modality={self.modality!r}: only 'rgb' can be padded"
            )
        if self.order not in ("RGB", "BGR"):
            raise ConfigError(f"preprocessing.order={self.order!r}: allowed are 'RGB' and 'BGR'")

    @property
    def snippet(self) -> int:
        """Frames of a segment that are read: motion needs one more than the network sees."""
        return self.frames // self.segments + (self.modality != "rgb")

    @property
    def host_flow(self) -> bool:
        """Whether the host makes, or reads, the flow; else it ships the frames for it."""
        return "flow" in self.modality and self.flow != "tvl1"

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of the bytes that the host ships for one clip."""
        if self.host_flow:
            return self.shape
        return (self.segments * self.snippet, self.crop, self.crop, 3)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one clip."""
        return (self.frames, self.crop, self.crop, len(self.mean))


STARTS = ("ends", "centers", "parts", "dense", "windows")
AGGREGATIONS = ("softmax", "sigmoid", "logits")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a video is scored at test: clips x crops, and how the scores are joined.

    Attributes:
      clips: clips per video, their starts spread uniformly from its first to its last
        possible one (one clip: the middle); 0 with the starts "windows", of which a video has as
        many as it has.
      crops: per clip: 1 (center), 3 (spread along the longer side), 5 (corners and center) or
        10 (these, and mirrored).
      aggregation: "softmax" averages probabilities over the views, "sigmoid" those of
        labels that do not exclude each other, "logits" averages logits.
      frames, crop, segments: of a test clip, where they differ from training's; 0 is the same.
        TSN tests single snippets: as many frames as one has, 1 segment.
      starts: "ends", see `clips`; "centers", the centers of equal parts of the possible starts
        (TSN); "parts", where these parts begin (SlowFast's code); "dense", as "ends", but
        every clip has `frames * stride` frames to itself (TSM's code: 64); "windows", all clips
        that do not overlap, the last one filled with its own frames (3D ResNet's code).
    """

    clips: int = 10
    crops: int = 1
    aggregation: str = "softmax"
    frames: int = 0
    crop: int = 0
    segments: int = 0
    starts: str = "ends"

    def __post_init__(self):
        if self.starts == "windows":
            if self.clips:
                raise ConfigError(
                    f"protocol.clips={self.clips}, starts='windows': clips must be 0, "
                    "as a video's length says how many windows it has"
                )
        elif self.clips < 1:
            raise ConfigError(f"protocol.clips={self.clips}: must be at least 1")
        for name in ("frames", "crop", "segments"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"protocol.{name}={getattr(self, name)}: 0 (training's) or positive"
                )
        if self.crops not in (1, 3, 5, 10):
            raise ConfigError(f"protocol.crops={self.crops}: allowed are 1, 3, 5 and 10")
        if self.starts not in STARTS:
            raise ConfigError(f"protocol.starts={self.starts!r}: allowed are {', '.join(STARTS)}")
        if self.aggregation not in AGGREGATIONS:
            raise ConfigError(
                f"protocol.aggregation={self.aggregation!r}: allowed are {', '.join(AGGREGATIONS)}"
            )

    def apply(self, preprocessing: Preprocessing) -> Preprocessing:
        """The preprocessing of a test clip."""
        p = dataclasses.replace(
            preprocessing,
            frames=self.frames or preprocessing.frames,
            crop=self.crop or preprocessing.crop,
            segments=self.segments or preprocessing.segments,
        )
        if p.segments > 1 and self.starts in ("dense", "windows"):
            raise ConfigError(
                f"protocol.starts={self.starts!r}, segments={p.segments}: a clip of these starts "
                "has one segment"
            )
        return p

    def describe(self, preprocessing: Preprocessing) -> str:
        """One line that says everything a reader needs to compare a number with another."""
        return f"{self.describe_views(preprocessing)}, mean of {self.aggregation}"

    def describe_views(self, preprocessing: Preprocessing) -> str:
        """The part of `describe` that says which views of a video are seen."""
        count = f"{self.clips} clip{'s' * (self.clips > 1)}" if self.clips else "all windows"
        return f"{count} x {self.describe_clip(preprocessing)}"

    def describe_clip(self, preprocessing: Preprocessing) -> str:
        """The part of `describe_views` after the number of clips: crops, frames and scale."""
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
            frames += f" of {p.modality}" + f" by {p.flow}" * ("flow" in p.modality)
        if p.short != "loop":
            frames += {"hold": ", the last one held", "pad": ", then black"}[p.short]
        return f"{crops} per video ({frames}, stride {p.stride}{rate}, {scaled}, crop {p.crop})"


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
    def head(self) -> str | tuple[str, ...]: ...

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
