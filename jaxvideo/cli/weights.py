"""`weights`: published weights that are downloaded by name."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.shared import add_command
from jaxvideo.types import ConfigError

if TYPE_CHECKING:
    from jaxvideo.weights.zoo import Row


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
        help="networks to list, such as '*slowfast*', or tags, such as 'ssv2*' (default: all)",
    )
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON with all columns")
    form.add_argument("--csv", action="store_true", help="print CSV with all columns")
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
    from jaxvideo.progress import echo

    rows = _matching(options.pattern)
    if options.json:
        echo(json.dumps([_values(row) for row in rows], indent=2))
    elif options.csv:
        echo(_csv([_values(row) for row in rows]))
    else:
        for line in _table(rows):
            echo(line)
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


def _table(rows: Sequence[Row]) -> list[str]:
    from jaxvideo.weights import store, zoo

    protocols = list(dict.fromkeys(_measured(row) for row in rows if row.protocol))
    cells = [("network", "tag", "classes", "top-1", "top-5", "test", "MB", "get")]
    defaults = {name: zoo.find(name).tag for name in {row.network for row in rows}}
    last = ""
    for row in rows:
        state = "maybe" if row.doubtful else "yes" if row.downloadable else "no"
        if (store.folder(row) / store.CONVERTED).is_file():
            state = "cached"
        cells.append(
            (
                row.network if row.network != last else "",
                row.tag + " *" * (row.tag == defaults[row.network]),
                str(row.classes or "?"),
                "-" if row.top1 is None else f"{row.top1:.1f}",
                "-" if row.top5 is None else f"{row.top5:.1f}",
                f"[{protocols.index(_measured(row)) + 1}]" if row.protocol else "-",
                f"{row.size / 1e6:.0f}" if row.size else "?",
                state,
            )
        )
        last = row.network
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    align = "<<>>><><"
    lines = [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, align, wide, strict=True)
        ).rstrip()
        for line in cells
    ]
    notes = ["", "* default. In column get: maybe, the host may have gone; no, a browser is needed"]
    if protocols:
        notes.append("Accuracies are the published ones, in percent, by test protocol:")
    return [*lines, *notes, *(f"  [{n}] {text}" for n, text in enumerate(protocols, start=1))]


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


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows as CSV; lists are joined by spaces."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "files"))
    columns.insert(columns.index("bytes"), "urls")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        urls = [url for file in row["files"] for url in file["urls"]]
        writer.writerow({**row, "data": " + ".join(row["data"]), "urls": " ".join(urls)})
    return text.getvalue().rstrip("\n")
