"""Validation and test inside a run: every process scores its share of the videos."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.pipeline import Share
from jaxvideo.evaluation.protocol import Result, describe_protocol, evaluate, join
from jaxvideo.inference import predict as inference
from jaxvideo.progress import LOG
from jaxvideo.training import distributed
from jaxvideo.training.memory import shortage_explained
from jaxvideo.training.parallel import Layout, make_layout
from jaxvideo.training.schema import Run
from jaxvideo.training.step import TrainState
from jaxvideo.types import Protocol

#: Protocol of validation during training. Published numbers use the protocol of the config.
ONE_CLIP = Protocol(clips=1, crops=1)

Predict = Callable[[TrainState, np.ndarray], np.ndarray]


def one_clip(dataset: VideoDataset) -> Protocol:
    """Returns the protocol of validation during training, with sigmoid scores if multi-label."""
    if dataset.label_sets:
        return dataclasses.replace(ONE_CLIP, aggregation="sigmoid")
    return ONE_CLIP


def make_predictor(run: Run, model, protocol: Protocol) -> Predict:
    """Returns `predict(state, video) -> scores`.

    `video` is uint8 `[N, T, H, W, C]`, `scores` f32 `[N, classes]`. Each process uses its local
    devices only, because processes test different videos at different speeds.
    """
    clip = protocol.apply(run.preprocessing)
    own = make_layout(run.parallel, {}, jax.local_devices())
    scores = inference.make_predictor(
        model, clip, protocol.aggregation, place=lambda video: own.put("video", video)
    )
    held: list[Any] = [None, None]

    def predict(state: TrainState, video: np.ndarray) -> np.ndarray:
        if held[0] is not state:  # gather the variables once per state
            tested = state.ema or {"params": state.params, "batch_stats": state.batch_stats}
            held[:] = state, _gathered(tested, own)
        return np.asarray(scores(held[1], video))

    return predict


def validate(run: Run, predict: Predict, state: TrainState, dataset, protocol: Protocol) -> Result:
    """Scores every video once, in one of the processes. All processes return the same result."""
    share = Share(jax.process_index(), jax.process_count())
    with shortage_explained(run, "validation"):
        result = evaluate(
            lambda video: predict(state, video),
            dataset,
            run.preprocessing,
            protocol,
            batch_size=run.eval_batch_size // share.count,
            loading=run.loading,
            share=share,
            log_seconds=run.log_seconds,
        )
    return join_shares(result)


def join_shares(result: Result) -> Result:
    """Returns the result of all processes. Collective: every process calls it."""
    if jax.process_count() == 1:
        return result
    return join([_unpack(part) for part in distributed.gather(_pack(result))])


def test(run: Run, model, state: TrainState, dataset: VideoDataset) -> Result:
    """Scores the validation videos with the test protocol of the config."""
    protocol = describe_protocol(run.protocol, run.preprocessing, dataset.paths)
    LOG.info(f"testing: {protocol}")
    predict = make_predictor(run, model, run.protocol)
    return validate(run, predict, state, dataset, run.protocol)


def _gathered(variables: Any, own: Layout) -> Any:
    """Gathers sharded variables and replicates them on the local devices."""
    if jax.process_count() == 1:
        return jax.device_put(variables, own.whole)
    mesh = jax.tree.leaves(variables)[0].sharding.mesh
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    gathered = jax.jit(lambda tree: tree, out_shardings=everywhere)(variables)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_single_device_arrays(
            leaf.shape, own.whole, [shard.data for shard in leaf.addressable_shards]
        ),
        gathered,
    )


def _pack(result: Result) -> bytes:
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in values.items() if name not in arrays}
    file = io.BytesIO()
    arrays["others"] = np.frombuffer(json.dumps(others).encode(), np.uint8)
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _unpack(data: bytes) -> Result:
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    return Result(**json.loads(bytes(arrays.pop("others"))), **arrays)
