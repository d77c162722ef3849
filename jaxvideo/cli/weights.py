"""`weights`: published weights that are downloaded by name."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.shared import Column, add_command, add_formats, say, show_table
from jaxvideo.types import ConfigError

if TYPE_CHECKING:
    from jaxvideo.weights.zoo import Row


_COLUMNS = (
    Column("network"),
    Column("tag"),
    Column("classes", right=True),
    Column("top-1", text="{:.1f}", right=True),
    Column("top-5", text="{:.1f}", right=True),
    Column("test", text="[{}]"),
    Column("bytes", "MB", lambda size: f"{size / 1e6:.0f}", right=True),
    Column("get"),
)


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "weights",
        _list,
        "list, download and verify published weights",
        "`jaxvideo weights ACTION --help` describes an action.",
    )
    actions = command.add_subparsers(required=True, metavar="ACTION", title="actions")
    listing = add_command(
        actions,
        "list",
        _list,
        "list the weights",
        "Accuracies are the published ones in percent, not measured by jaxvideo; the protocols are "
        "listed below the table.",
    )
    listing.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="networks to list, such as '*slowfast*', or tags, such as '*ssv2*' (default: all)",
    )
    add_formats(listing, "table with all columns")
    fetch = add_command(
        actions,
        "fetch",
        _fetch,
        "download and convert weights",
        "Afterwards they are read from the cache, without network access and without torch. An "
        "interrupted download is continued.",
    )
    _add_weights(fetch)
    verify = add_command(
        actions,
        "verify",
        _verify,
        "check the files in the cache",
        "Compares sizes and hashes with the published and the recorded ones. The exit status is 1 "
        "if a file differs.",
    )
    verify.add_argument(
        "pattern", nargs="?", default="*", help="networks or tags to verify (default: all)"
    )
    path = add_command(
        actions,
        "path",
        _path,
        "print the path of weights in the cache",
        "It is a .safetensors file of jaxvideo. Nothing is downloaded.",
    )
    _add_weights(path)


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument("network", metavar="NETWORK", help="name of the network, see `models`")
    command.add_argument(
        "tag",
        nargs="?",
        default="default",
        metavar="TAG",
        help="a tag of the network, a data set such as k400, or an unambiguous beginning of a tag "
        "(default: the best published weights)",
    )


def _list(options: argparse.Namespace) -> int:
    rows = _matching(options.pattern)
    if options.json or options.csv:
        found = [_values(row) for row in rows]
        keys = dict.fromkeys(key for values in found for key in _flat(values))
        cells = [[_flat(values).get(key) for key in keys] for values in found]
        show_table(options, [Column(key) for key in keys], cells, document=lambda: found)
        return 0
    protocols = list(dict.fromkeys(_measured(row) for row in rows if row.protocol))
    show_table(options, _COLUMNS, _cells(rows, protocols))
    say(options)
    say(options, "* default. In column get: maybe, the host may have gone; no, a browser is needed")
    if protocols:
        say(options, "Accuracies are the published ones, in percent, by test protocol:")
    for number, text in enumerate(protocols, start=1):
        say(options, f"  [{number}] {text}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from jaxvideo.pretrained.named import PREFIX, cached, row_of
    from jaxvideo.progress import echo

    echo(str(cached(row_of(options.network, f"{PREFIX}{options.tag}"))))
    return 0


def _path(options: argparse.Namespace) -> int:
    from jaxvideo.progress import echo
    from jaxvideo.types import CheckpointError
    from jaxvideo.weights import store, zoo

    row = zoo.find(options.network, options.tag)
    found = store.converted(row)
    if found is None:
        raise CheckpointError(
            f"{row.name} is not in the cache {store.folder(row)}: "
            f"jaxvideo weights fetch {row.network} {row.tag}"
        )
    echo(str(found))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from jaxvideo.progress import LOG, echo
    from jaxvideo.weights import store

    damaged = checked = 0
    for row in _matching(options.pattern):
        for name, state in store.verify(row).items():
            checked += 1
            if state == "ok":
                echo(f"ok       {row.name}  {name}")
            else:
                damaged += 1
                echo(f"damaged  {row.name}  {name}: {state}")
    if damaged:
        LOG.error(
            f"{damaged} of {checked} files differ; the next use downloads or makes them again"
        )
    elif not checked:
        echo(f"no weights in {store.root()}")
    return 1 if damaged else 0


def _matching(pattern: str) -> list[Row]:
    """Returns the rows whose network matches, or else those whose tag does, by network."""
    from jaxvideo.weights import zoo

    rows = [row for row in zoo.table() if fnmatch.fnmatchcase(row.network, pattern)]
    rows = rows or [row for row in zoo.table() if fnmatch.fnmatchcase(row.tag, pattern)]
    if not rows:
        raise ConfigError(
            f"no weights match {pattern!r}; try '*PART*'. `jaxvideo weights list` shows all"
        )
    return sorted(rows, key=lambda row: row.network)


def _cells(rows: Sequence[Row], protocols: Sequence[str]) -> list[list[Any]]:
    """Returns the cells of the table for people; a network is named once."""
    from jaxvideo.weights import store, zoo

    defaults = {name: zoo.find(name).tag for name in {row.network for row in rows}}
    cells, last = [], ""
    for row in rows:
        state = "maybe" if row.doubtful else "yes" if row.downloadable else "no"
        cells.append(
            [
                row.network if row.network != last else "",
                row.tag + " *" * (row.tag == defaults[row.network]),
                row.classes,
                row.top1,
                row.top5,
                protocols.index(_measured(row)) + 1 if row.protocol else None,
                row.size,
                "cached" if (store.folder(row) / store.CONVERTED).is_file() else state,
            ]
        )
        last = row.network
    return cells


def _measured(row: Row) -> str:
    """Describes the measurement of the accuracies, for the notes below the table."""
    return f"mAP, {row.protocol}" if row.metric == "mAP" else row.protocol


def _values(row: Row) -> dict[str, Any]:
    """Returns all columns of a row, for programs."""
    from jaxvideo.weights import store, zoo

    return {
        "network": row.network,
        "tag": row.tag,
        "default": row.tag == zoo.find(row.network).tag,
        "source": row.source,
        "data": list(row.data),
        "classes": row.classes,
        row.metric: row.top1,
        "top-5": row.top5,
        "protocol": row.protocol or None,
        "bytes": row.size,
        "files": [
            {"name": f.name, "urls": list(f.urls), "bytes": f.bytes, "hash": _hash(f)}
            for f in row.files
        ],
        "page": row.page,
        "license": f"{row.license} ({row.license_note})",
        "terms": row.terms,
        "evidence": row.evidence,
        "note": row.note or None,
        "doubtful": row.doubtful,
        "cached": (store.folder(row) / store.CONVERTED).is_file(),
    }


def _hash(file: Any) -> str | None:
    return f"{file.hash_kind}:{file.hash}" if file.hash else None


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns of a row for CSV: of its files the addresses."""
    plain = {key: value for key, value in values.items() if key != "files"}
    urls = [url for file in values["files"] for url in file["urls"]]
    return {**plain, "data": " + ".join(values["data"]), "urls": urls}
