"""The table of weights that can be downloaded by name: `zoo.json`, read into typed rows.

A row is one publication of weights for one network. Its tag is `DATA_SOURCE` or
`DATA_SOURCE_VARIANT`, for instance `k400_pytorchvideo`: the data set of the last training, after
those of earlier trainings and a hyphen, and a key of `weights.sources.SOURCES`.

In `zoo.json`, `data` has the data sets and `groups` the rows. The keys of a group are those of its
rows, unless a row has them itself. The table was compiled from the documents that `evidence` and
`terms_evidence` name.
To add weights, add a row; `tests/weights/test_zoo_table.py` checks it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from jaxvideo.types import ConfigError, UsageError

#: Kinds of published hashes. "sha256-prefix": the first digits, as torch puts them into file names.
#: "git-blob-sha1": the name of the file's content in a git repository.
HASHES = ("sha256", "sha256-prefix", "sha384", "sha1", "git-blob-sha1")

#: The name that stands for the default tag of a network.
DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class File:
    """A file of published weights.

    Attributes:
      name: its name in the cache.
      urls: addresses of identical files, the publisher's first; empty if it cannot be downloaded
        without a browser (Google Drive).
      bytes: exact size; None if unknown.
      about: approximate size, if the exact one is unknown; None if that is unknown, too.
      hash_kind: a row of `HASHES`; "" if no hash is published.
      hash: hexadecimal digits, lower case.
    """

    name: str
    urls: tuple[str, ...]
    bytes: int | None = None
    about: int | None = None
    hash_kind: str = ""
    hash: str = ""

    @property
    def size(self) -> int | None:
        """Size in bytes, possibly approximate."""
        return self.bytes or self.about


@dataclasses.dataclass(frozen=True)
class Row:
    """Published weights of one network.

    Attributes:
      network: a name of `jaxvideo.list_models()`.
      tag: its name among the weights of the network.
      source: the importer, a key of `weights.sources.SOURCES`.
      files: one file; for a TensorFlow checkpoint its index first.
      page: where the publisher lists it.
      arguments: arguments of `create_model`, in addition to those of the source.
      preprocessing: fields of `Preprocessing` that differ from the source's.
      test: fields of `Protocol` that differ from their defaults.
      data: names of the data sets it was trained on, the last one last.
      classes: number of classes; None if it is not published.
      license: SPDX identifier of the license that is published with it.
      license_note: what that license covers.
      terms: terms of the data sets, as far as a document shows them.
      top1, top5: published accuracies in percent on the last data set; None if there is none.
      metric: what `top1` is: "top-1", or "mAP" for several labels per video.
      protocol: how they were measured; "" if there are none.
      evidence: the document that the row was made from.
      note: what else a user should know.
      doubtful: True if the host may have gone since the document was written.
    """

    network: str
    tag: str
    source: str
    files: tuple[File, ...]
    page: str
    arguments: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    test: Mapping[str, Any]
    data: tuple[str, ...]
    classes: int | None
    license: str
    license_note: str
    terms: str
    top1: float | None
    top5: float | None
    metric: str
    protocol: str
    evidence: str
    note: str
    doubtful: bool

    @property
    def name(self) -> str:
        """Network and tag, for messages."""
        return f"{self.network} {self.tag}"

    @property
    def downloadable(self) -> bool:
        """True if every file has an address; otherwise a browser is needed."""
        return all(file.urls for file in self.files)

    @property
    def size(self) -> int | None:
        """Size of all files in bytes, possibly approximate; None if unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts, the publisher's first."""
        return tuple(dict.fromkeys(urlsplit(u).netloc for file in self.files for u in file.urls))

    @property
    def published(self) -> str:
        """The published accuracy with its protocol."""
        if self.top1 is None:
            return "no accuracy published"
        top5 = "" if self.top5 is None else f", {self.top5:g} % top-5"
        return f"{self.top1:g} % {self.metric}{top5} ({self.protocol})"

    def describe(self) -> dict[str, str]:
        """Returns what a user should know before the first use, by label."""
        classes = "" if self.classes is None else f", {self.classes} classes"
        found = {
            "weights": f"{self.name}: {' + '.join(self.data)}{classes}",
            "published": self.published,
            "license": f"{self.license} ({self.license_note})",
            "data terms": f"{self.terms} (the data set's own page decides)",
            "page": self.page,
        }
        return found | ({"note": self.note} if self.note else {})


@functools.cache
def table() -> tuple[Row, ...]:
    """Returns all rows.

    Example:
      >>> table()[0].name
      'r3d_18 k400_torchvision'
    """
    text = resources.files("jaxvideo.weights").joinpath("zoo.json").read_text(encoding="utf-8")
    content = json.loads(text)
    rows = []
    for group in content["groups"]:
        shared = {key: value for key, value in group.items() if key != "rows"}
        rows += [_row({**shared, **row}, content["data"]) for row in group["rows"]]
    return tuple(rows)


def _row(values: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]) -> Row:
    values = dict(values)
    sets = [data[name] for name in data_of(values["tag"])]
    top1 = values.get("top1")
    given = {
        "files": tuple(_file(file) for file in values.pop("files")),
        "arguments": values.pop("arguments", {}),
        "preprocessing": values.pop("preprocessing", {}),
        "test": values.pop("test", {}),
        "data": tuple(one["name"] for one in sets),
        "classes": values.pop("classes", sets[-1]["classes"]),
        "terms": "; ".join(dict.fromkeys(one["terms"] for one in sets)),
        "top1": values.pop("top1", None),
        "top5": values.pop("top5", None),
        "metric": values.pop("metric", "top-1"),
        # The protocol of a group belongs to its accuracies.
        "protocol": values.pop("protocol", "") if top1 is not None else "",
        "note": values.pop("note", ""),
        "doubtful": values.pop("doubtful", False),
    }
    values.pop("protocol", None)
    return Row(**given, **values)


def _file(values: Mapping[str, Any]) -> File:
    values = dict(values)
    kind = next((kind for kind in HASHES if kind in values), "")
    digits = values.pop(kind, "")
    return File(**{**values, "urls": tuple(values["urls"])}, hash_kind=kind, hash=digits)


def data_of(tag: str) -> list[str]:
    """Returns the names of the data sets in a tag, in the order of the trainings.

    Example:
      >>> data_of("ig65m-k400_vmz_8f")
      ['ig65m', 'k400']
    """
    return tag.partition("_")[0].split("-")


def rows_of(network: str) -> list[Row]:
    """Returns the weights of a network, in the order of the table."""
    return [row for row in table() if row.network == network]


def networks() -> set[str]:
    """Returns the networks with weights that can be downloaded."""
    return {row.network for row in table() if row.downloadable}


def best(rows: Iterable[Row]) -> Row:
    """Returns the row with the best published accuracy.

    Only accuracies on the same data set can be compared, hence those on Kinetics-400 come first.
    Weights that can be downloaded precede those that cannot, hosts that are not doubtful those that
    are, and weights with a stated protocol those without. The first of equal rows wins.
    """
    return max(
        rows,
        key=lambda row: (
            row.downloadable,
            not row.doubtful,
            data_of(row.tag)[-1] == "k400",
            row.protocol not in ("", "not stated"),
            row.top1 or 0.0,
        ),
    )


def find(network: str, tag: str = DEFAULT) -> Row:
    """Returns the weights of a network that a tag names.

    Args:
      network: the name of the network.
      tag: a tag of the network; "default"; the data part of tags, such as "k400", for the best
        published weights of that data set, also after another one if there are no others; or
        another beginning of exactly one tag.

    Raises:
      ConfigError: the network has no weights in the table, or the tag fits none or several.

    Example:
      >>> find("x3d_m", "k400").tag
      'k400_pyslowfast'
    """
    rows = rows_of(network)
    if not rows:
        raise ConfigError(
            f"no weights of {network!r} can be downloaded by name. `jaxvideo weights list` shows "
            "the networks that have some; a file of your own is read with weights=FILE and "
            "source=LIBRARY"
        )
    if tag == DEFAULT:
        return best(rows)
    if exact := [row for row in rows if row.tag == tag]:
        return exact[0]
    if same_data := [row for row in rows if row.tag.startswith(f"{tag}_") and "_" not in tag]:
        return best(same_data)
    if fine_tuned := [row for row in rows if data_of(row.tag)[-1] == tag]:
        return best(fine_tuned)
    longer = [row for row in rows if tag and row.tag.startswith(tag)]
    if len(longer) == 1:
        return longer[0]
    tags = [row.tag for row in rows]
    if longer:
        raise ConfigError(
            f"{tag!r} is the beginning of several tags of {network}: "
            f"{', '.join(row.tag for row in longer)}. Name one of them"
        )
    near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UsageError(f"{network} has no weights {tag!r}. {hint}Its tags are {', '.join(tags)}")
