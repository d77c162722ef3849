"""Computes scores of uint8 views for validation and evaluation, and predictions for `Network`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvideo.data.protocol_reader import read_tests
from jaxvideo.data.video import open_video
from jaxvideo.evaluation.scoring import Predict, mean_scores, score_videos
from jaxvideo.inference.prediction import Prediction
from jaxvideo.inference.prepare import prepare
from jaxvideo.types import Preprocessing, Protocol, VideoError


def make_predict_step(model, preprocessing: Preprocessing, aggregation: str):
    """Returns the function `(variables, video) -> scores`, not compiled.

    Args:
      model: a network.
      preprocessing: preprocessing of a test clip, see `Protocol.apply`.
      aggregation: kind of scores: "softmax" or "sigmoid" probabilities, or "logits".

    Returns:
      A function of the variables and of uint8 views, planes `[N, *Preprocessing.transfer_shape]` or
      RGB `[N, T, H, W, 3]`. It returns f32 scores `[N, classes]`.
    """

    def predict_step(variables: dict[str, Any], video: jax.Array) -> jax.Array:
        clip = prepare(video, preprocessing, model.dtype)
        logits, _ = model.apply(variables, clip, train=False)
        logits = logits.astype(jnp.float32)
        scores = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}
        return scores[aggregation](logits) if aggregation in scores else logits

    return predict_step


def make_predictor(
    model,
    preprocessing: Preprocessing,
    aggregation: str,
    *,
    place: Callable[[np.ndarray], Any] | None = None,
) -> Callable[[Any, np.ndarray], jax.Array]:
    """Returns the compiled `predict(variables, video) -> scores`.

    Args:
      model: linen module of a network.
      preprocessing: preprocessing of a test clip, see `Protocol.apply`.
      aggregation: kind of scores: "softmax" or "sigmoid" probabilities, or "logits".
      place: function that transfers the views to the devices, for instance sharded. None
        (default): the default device.

    Returns:
      A function of the variables and of uint8 views, see `make_predict_step`. It returns f32 scores
      `[N, classes]` without waiting for the device. It compiles once per shape.

    Example:
      predict = make_predictor(net.model, net.preprocessing, "softmax")
      scores = np.asarray(predict(net.variables, views))
    """
    step = jax.jit(make_predict_step(model, preprocessing, aggregation))
    if place is None:
        return step
    return lambda variables, video: step(variables, place(video))


def make_scorer(
    model, variables: Any, preprocessing: Preprocessing, aggregation: str, *, all_devices: bool
) -> Callable[[np.ndarray], jax.Array]:
    """Returns the compiled `score(video) -> scores` with the variables on the device.

    Args:
      model, preprocessing, aggregation: as for `make_predictor`.
      variables: the variables, in which BatchNorm may be folded.
      all_devices: True to split the views over all devices of this process, whose number must
        divide N; False to use the default device.
    """
    if not all_devices:
        predict = make_predictor(model, preprocessing, aggregation)
        return functools.partial(predict, jax.device_put(variables))
    own = jax.local_devices()
    mesh = jax.make_mesh((len(own),), ("data",), axis_types=(AxisType.Auto,), devices=own)
    split = NamedSharding(mesh, PartitionSpec("data"))
    predict = make_predictor(
        model, preprocessing, aggregation, place=lambda video: jax.device_put(video, split)
    )
    return functools.partial(
        predict, jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    )


def predict_videos(
    score: Predict,
    videos: Sequence[Any],
    preprocessing: Preprocessing,
    protocol: Protocol,
    classes: tuple[str, ...],
) -> Iterator[Prediction | VideoError]:
    """Classifies videos; the next ones are read while one is computed.

    Args:
      score: function of uint8 views `[crops, T, H, W, C]`, see `make_scorer`.
      videos: anything that `open_video` accepts.
      preprocessing: preprocessing of training.
      protocol: the views of a video.
      classes: the class names.

    Yields:
      For each video, in order, its prediction, or the error if it cannot be read.
    """

    def probabilities(scores: np.ndarray) -> np.ndarray:
        if protocol.aggregation == "logits":
            scores = np.exp(scores - np.max(scores))
            scores = scores / scores.sum()
        return np.asarray(scores, np.float32)

    stream = read_tests(
        lambda index: open_video(videos[index]),
        range(len(videos)),
        protocol.apply(preprocessing),
        protocol,
        ahead=2 * protocol.crops,
    )
    with contextlib.closing(stream):
        for _, found in score_videos(score, stream, protocol.crops):
            if isinstance(found, VideoError):
                yield found
                continue
            own = [dataclasses.replace(one, scores=probabilities(one.scores)) for one in found]
            yield Prediction(probabilities(mean_scores(found)), classes, tuple(own))
