"""Small networks published on a server of the tests, as rows of the real table."""

from __future__ import annotations

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.models import create_model, model_entry
from jaxvideo.models.summary import trace
from jaxvideo.pretrained.fitting import for_clip
from jaxvideo.weights import tree, zoo
from jaxvideo.weights.sources import find_source, names_in_file


def small(row: zoo.Row, server, **preprocessing) -> zoo.Row:
    """Returns the row for a narrow network and tiny clips, whose files the server has."""
    files = []
    for file in row.files:
        path = f"/{row.network}/{row.tag}/{file.name}"
        files.append(zoo.File(file.name, (server.url(path),)))
    return dataclasses.replace(
        row,
        files=tuple(files),
        arguments={**row.arguments, "width": 1 / 16},
        preprocessing={**row.preprocessing, **preprocessing},
    )


def arrays_of(row: zoo.Row, seed: int = 0) -> tuple[dict, dict]:
    """Returns random arrays by the publisher's names and layout, and by ours."""
    source = find_source(row.source, row.network)
    clips = dataclasses.replace(model_entry(row.network).preprocessing, **source.preprocessing)
    shape = {key: row.preprocessing.get(key, 0) for key in ("frames", "crop")}
    clip = jax.ShapeDtypeStruct((1, *for_clip(clips, **shape).shape), jnp.float32)
    arguments = {**source.arguments, **row.arguments}
    model = create_model(row.network, num_classes=row.classes, **arguments)
    shapes = tree.flatten(trace(model, clip).variables)
    rng = np.random.default_rng(seed)
    ours = {n: rng.uniform(0.5, 1.5, s.shape).astype(np.float32) for n, s in shapes.items()}
    axes = {5: (4, 3, 0, 1, 2), 2: (1, 0), 1: (0,)}
    names = names_in_file(ours, source, ())
    theirs = {names[n].replace("*", "400"): a.transpose(axes[a.ndim]) for n, a in ours.items()}
    return theirs, ours


def caffe2_file(row: zoo.Row, seed: int = 0) -> tuple[bytes, dict]:
    """Returns a pickle as Caffe2 writes it, with some state of the training; and our arrays."""
    theirs, ours = arrays_of(row, seed)
    blobs = {**theirs, "lr": np.float32([0.1]), "model_iter": np.int64([7])}
    return pickle.dumps({"blobs": blobs}, protocol=2), ours
