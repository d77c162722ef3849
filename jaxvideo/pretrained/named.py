"""Weights by name: downloaded, converted once, and then read from the cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvideo.models import create_model, head_scopes, model_entry
from jaxvideo.pretrained.reading import read_weights
from jaxvideo.pretrained.saving import Weights, save_weights
from jaxvideo.types import CheckpointError, ConfigError, Protocol
from jaxvideo.weights import zoo
from jaxvideo.weights.sources import SOURCES
from jaxvideo.weights.zoo import Row

#: Prefix of weights by name where a path may stand, too (`config.init.weights`).
PREFIX = "zoo:"


def is_tag(weights: str | os.PathLike[str], source: str | None = None) -> bool:
    """Returns True if `weights` is the name of weights, and not a source, a file or its name."""
    text = os.fspath(weights)
    plain = isinstance(weights, str) and os.sep not in text and "." not in text
    return plain and source is None and text not in SOURCES and not Path(text).exists()


def named_weights(
    name: str,
    tag: str = zoo.DEFAULT,
    path: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> Weights:
    """Reads weights by name. They are downloaded at the first use.

    Args:
      name: a name of `list_models()`.
      tag: the weights, see `zoo.find`: "default", a tag, or an unambiguous beginning of one.
      path: the publisher's file, if it was downloaded in another way. It is read with the rules of
        the tag and not copied to the cache.
      **arguments: see `read_weights`.

    Raises:
      ConfigError: there are no such weights, or `num_classes` does not fit them.
      CheckpointError: they cannot be downloaded or read.

    Example:
      weights = named_weights("x3d_m", "k400")
    """
    model_entry(name)
    row = zoo.find(name, tag)
    _check_classes(row, **arguments)
    if path is not None:
        _check_own_file(row, Path(path))
        return _read(row, Path(path), **arguments)
    return read_weights(name, cached(row), **arguments)


def cached(row: Row) -> Path:
    """Returns jaxvideo's file of some weights, after downloading and converting them if needed.

    Raises:
      CheckpointError: they cannot be downloaded, read or written.
    """
    from jaxvideo.weights import store

    if path := store.converted(row, warn=False):  # a cache that cannot be written has no lock
        return path
    with store.locked(row):
        if path := store.converted(row):  # another process has made it
            return path
        original = store.originals(row)
        try:
            weights = _read(row, original)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}. The file was downloaded for {row.name}; it is tried again in the next "
                "call. Delete it to download it again"
            ) from error
        save_weights(store.folder(row) / store.CONVERTED, weights)
        return store.keep_converted(row)


def original_of(name: str, tag: str) -> Path | None:
    """Returns the publisher's file of cached weights by name; None if it has been deleted."""
    from jaxvideo.weights import store

    row = zoo.find(name, tag)
    path = store.folder(row) / row.files[0].name
    return path if path.is_file() else None


def cached_path(name: str, weights: str) -> str:
    """Returns the path of `zoo:TAG` for a network, or of `zoo:NETWORK/TAG`; other paths as is.

    Raises:
      ConfigError, CheckpointError: see `named_weights`.
    """
    if not weights.startswith(PREFIX):
        return weights
    return str(cached(row_of(name, weights)))


def row_of(name: str, weights: str) -> Row:
    """Returns the row of `zoo:TAG` for a network, or of `zoo:NETWORK/TAG`.

    Raises:
      ConfigError: there are no such weights.
    """
    first, slash, second = weights.removeprefix(PREFIX).partition("/")
    network, tag = (first, second) if slash else (name, first)
    model_entry(network)
    return zoo.find(network, tag or zoo.DEFAULT)


def card_of(row: Row) -> dict[str, Any]:
    """Returns what `Network.card` says about the origin of weights by name."""
    published = {row.metric: row.top1, "top-5": row.top5}
    return {
        "tag": row.tag,
        "url": next((file.urls[0] for file in row.files if file.urls), ""),
        "page": row.page,
        "data": list(row.data),
        "license": row.license,
        "license_note": row.license_note,
        "terms": row.terms,
        "published": {key: value for key, value in published.items() if value is not None},
        "protocol": row.protocol,
        "evidence": row.evidence,
    }


def _read(row: Row, path: Path, **arguments: Any) -> Weights:
    """Reads the publisher's file with the rules of its row."""
    # Shapes of parameters may depend on frames and crop; those of segments are independent.
    keys = ("crop",) if "segments" in row.preprocessing else ("frames", "crop")
    shape = {key: row.preprocessing.get(key, 0) for key in keys}
    weights = read_weights(row.network, path, row.source, **{**shape, **row.arguments, **arguments})
    others = {key: value for key, value in row.preprocessing.items() if key not in shape}
    return dataclasses.replace(
        weights,
        preprocessing=dataclasses.replace(weights.preprocessing, **others),
        protocol=Protocol(**row.test),
        origin={**weights.origin, **card_of(row)},
    )


def _check_classes(
    row: Row, num_classes: int | None = None, leave_out: Any = (), **_: Mapping[str, Any]
) -> None:
    """Raises an error before the download if the classifier cannot fit."""
    if num_classes in (None, row.classes) or row.classes is None or leave_out:
        return
    scopes = head_scopes(create_model(row.network))
    patterns = ", ".join(f'"{scope}/*"' for scope in scopes)
    raise ConfigError(
        f"{row.name} has {row.classes} classes, and num_classes={num_classes}. For a new "
        f"classifier call jaxvideo.load(...).with_classes({num_classes}), or pass "
        f"leave_out=({patterns},)"
    )


def _check_own_file(row: Row, path: Path) -> None:
    from jaxvideo.weights import download

    file = next((one for one in row.files if one.name == path.name), row.files[0])
    if len(row.files) == 1 and path.is_file() and (wrong := download.difference(file, path)):
        raise CheckpointError(
            f"{path} is not the file of {row.name}: {wrong}. If it is meant nevertheless, pass "
            f"weights={str(path)!r} and source={row.source!r}"
        )
