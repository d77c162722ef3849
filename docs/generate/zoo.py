"""The model zoo: an overview, one card per family, and all weights by name."""

import importlib
import json
from importlib import resources

from generate.families import FAMILIES, Family, check
from generate.layers import layers
from generate.text import code, count, markdown, shape, table
from jaxvideo.models import MODELS
from jaxvideo.weights import zoo

OVERVIEW = """# Model zoo

{networks} networks in {families} families, {weights} weights by name for {with_weights} of them.
A card has the layers of one network, the counts of all, the endpoints, and the published weights
with accuracy and protocol. The cards are generated from the registry and the table of weights.

{table}
`jaxvideo models` prints the networks, `jaxvideo weights list` the weights.
[Models](../../models.md) explains how a network is created, [Weights](../../weights.md) how weights
are opened.

```{{toctree}}
:hidden:

{pages}
weights
```
"""
CARD = """# {title}

{papers}

```python
{example}
```

{about}
## Networks

Parameters and multiply-adds of one clip of the size that the network's preprocessing states, as
papers count them: convolutions and matrix products only.

{networks}
## Layers of `{lead}`

For a clip of {clip}. A layer is a scope of `params`; its count includes the BN behind it.

{layers}
## Endpoints

Keys of the second result, in network order, with their shapes without the batch axis, for
`{lead}`. The [contract](../../models.md#contract) explains `pre_logits` and `logits`.

{endpoints}
{weights}"""
WEIGHTS = """## Weights

Accuracies are those that the publisher states, in percent, with the protocol that it states;
jaxvideo did not measure them. **Bold** is `weights="default"`.

{table}
"""
NO_WEIGHTS = """## Weights

No published weights of these networks can be opened by name.{sources}
"""
ALL = """# Weights by name

All {number} published weights that `jaxvideo.load` opens by network and tag, by the library that
they come from and with the name of its file. [Weights](../../weights.md#weights-by-name) explains
tags, downloads and the cache. Accuracies are those that the publisher states, in percent; jaxvideo
did not measure them. The data set's own terms decide about the use of weights trained on it.

{tables}
"""


def _table() -> dict[str, dict]:
    text = resources.files("jaxvideo").joinpath("models/table.json").read_text(encoding="utf-8")
    return json.loads(text)


def example(family: Family) -> str:
    """Returns a program of four lines for a family."""
    with_default = [name for name in (family.lead, *family.networks) if name in zoo.networks()]
    if with_default:
        return (
            "import jaxvideo\n"
            "\n"
            f'net = jaxvideo.load("{with_default[0]}", weights="default")\n'
            'print(net.predict("clip.mp4").top(5))'
        )
    t, h, w, c = MODELS[family.lead].preprocessing.shape
    return (
        "import jax, jaxvideo\n"
        f'model = jaxvideo.create_model("{family.lead}", num_classes=10)\n'
        f"key, clip = jax.random.key(0), jax.numpy.zeros((1, {t}, {h}, {w}, {c}))\n"
        "(logits, endpoints), variables = model.init_with_output(key, clip, train=False)"
    )


def _networks(family: Family, known: dict[str, dict]) -> str:
    rows = []
    for name in family.networks:
        row = known[name]
        rows.append(
            (
                code(name),
                count(row["parameters"]),
                count(row["macs"]),
                shape(row["clip"]),
                len(zoo.rows_of(name)) or "",
                ", ".join(row["weights"]),
            )
        )
    head = ("network", "parameters", "multiply-adds", "clip (T × H × W × C)", "tags", "files of")
    return table(head, rows, right=("parameters", "multiply-adds", "tags"))


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _size(row: zoo.Row) -> str:
    if row.size is None:
        return ""
    exact = all(file.bytes for file in row.files)
    return f"{'' if exact else 'about '}{row.size / 1e6:.0f} MB"


def _available(row: zoo.Row) -> str:
    if not row.downloadable:
        return "by hand"
    return "host may be gone" if row.doubtful else "yes"


def _published(row: zoo.Row) -> tuple[str, ...]:
    return (
        _accuracy(row.top1) + (f" {row.metric}" if row.metric != "top-1" else ""),
        _accuracy(row.top5),
        " + ".join(row.data),
        row.protocol,
        _size(row),
        row.license,
        _available(row),
    )


PUBLISHED = ("top-1", "top-5", "data", "protocol", "size", "license", "download")


def _weights(names: list[str]) -> str:
    rows = []
    for name in names:
        default = zoo.best(zoo.rows_of(name))
        for row in zoo.rows_of(name):
            tag = f"**{code(row.tag)}**" if row is default else code(row.tag)
            rows.append((code(name), tag, *_published(row)))
    return table(("network", "tag", *PUBLISHED), rows, right=("top-1", "top-5", "size"))


def _all_weights() -> str:
    parts = []
    for source in dict.fromkeys(row.source for row in zoo.table()):
        rows = [
            (code(row.files[0].name), code(row.network), code(row.tag), *_published(row))
            for row in zoo.table()
            if row.source == source
        ]
        head = ("file", "network", "tag", *PUBLISHED)
        parts += [f"## {source}\n", table(head, rows, right=("top-1", "top-5", "size"))]
    return ALL.format(number=len(zoo.table()), tables="\n".join(parts))


def _card(family: Family, known: dict[str, dict]) -> str:
    found, endpoints = layers(family.lead)
    total = sum(layer.parameters for layer in found)
    if total != known[family.lead]["parameters"]:
        raise ValueError(f"{family.lead}: the layers have {total} parameters")
    rows = [
        (code(layer.scope), layer.kind, layer.detail, shape(layer.output), f"{layer.parameters:,}")
        for layer in found
    ]
    rows.append(("sum", "", "", "", f"{total:,}"))
    head = ("layer", "module", "kernel", "output", "parameters")
    module = importlib.import_module(f"jaxvideo.models.{family.module}")
    # The heading of the docstring is its first line, which the title of the card replaces.
    about = (module.__doc__ or "").partition("\n\n")[2]
    with_weights = [name for name in family.networks if zoo.rows_of(name)]
    sources = sorted({source for name in family.networks for source in known[name]["weights"]})
    readable = f" Files of {', '.join(map(code, sources))} can be read." if sources else ""
    return CARD.format(
        title=family.title,
        papers="\n".join(
            f"- [{title}](https://arxiv.org/abs/{number}) (arXiv {number})"
            for number, title in family.papers
        ),
        example=example(family),
        about=f"{markdown(about)}\n" if about.strip() else "",
        networks=_networks(family, known),
        lead=family.lead,
        clip=shape(known[family.lead]["clip"]),
        layers=table(head, rows, right=("parameters",)),
        endpoints=table(
            ("endpoint", "shape"), [(code(key), shape(axes)) for key, axes in endpoints.items()]
        ),
        weights=WEIGHTS.format(table=_weights(with_weights))
        if with_weights
        else NO_WEIGHTS.format(sources=readable),
    )


def _range(numbers: list[int]) -> str:
    low, high = count(min(numbers)), count(max(numbers))
    return low if low == high else f"{low} - {high}"


def _overview(known: dict[str, dict]) -> str:
    rows = []
    for family in FAMILIES:
        names = family.networks
        tops = [
            row.top1
            for name in names
            for row in zoo.rows_of(name)
            if row.top1 and row.metric == "top-1" and zoo.data_of(row.tag)[-1] == "k400"
        ]
        rows.append(
            (
                f"[{family.title}]({family.page}.md)",
                len(names),
                _range([known[name]["parameters"] for name in names]),
                _range([known[name]["macs"] for name in names]),
                sum(len(zoo.rows_of(name)) for name in names) or "",
                f"{max(tops):.1f}" if tops else "",
            )
        )
    head = ("family", "networks", "parameters", "multiply-adds", "weights", "best k400")
    note = "`best k400`: the highest published top-1 on Kinetics-400, in percent.\n"
    return OVERVIEW.format(
        networks=len(known),
        families=len(FAMILIES),
        weights=len(zoo.table()),
        with_weights=len({row.network for row in zoo.table()}),
        table=table(head, rows, right=head[1:]) + "\n" + note,
        pages="\n".join(family.page for family in FAMILIES),
    )


def pages() -> dict[str, str]:
    check(FAMILIES)
    known = _table()
    found = {f"zoo/{family.page}.md": _card(family, known) for family in FAMILIES}
    found["zoo/index.md"] = _overview(known)
    found["zoo/weights.md"] = _all_weights()
    return found
