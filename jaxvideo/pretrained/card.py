"""Model cards: README.md of a network on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxvideo.pretrained.saving import Weights

# The Hub's own names of licenses are lower case; it knows these.
_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0", "cc-by-nc-4.0")


def model_card(weights: Weights, repo: str, license: str | None = None) -> str:
    """Returns the text of a model card, with the metadata that the Hub reads.

    Published accuracies are stated only for unchanged weights, together with their protocol.

    Args:
      weights: the weights.
      repo: "owner/name" on the Hub.
      license: license identifier; None (default): the one published with the weights, if any.
    """
    origin = weights.origin
    license = license or origin.get("license")
    metrics = _metrics(weights)
    head: dict[str, Any] = {"library_name": "jaxvideo", "pipeline_tag": "video-classification"}
    if license:
        known = license.lower() in _LICENSES
        head["license"] = license.lower() if known else "other"
        if not known:
            head["license_name"] = license
    head["tags"] = ["jax", "flax", "video", weights.model["name"]]
    if metrics:
        head["model-index"] = [{"name": repo.rpartition("/")[2], "results": [_index(weights)]}]
    # JSON values are YAML values.
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    parts = [
        f"---\n{front}\n---",
        f"# {repo.rpartition('/')[2]}",
        f"`{weights.model['name']}` with {len(weights.classes)} classes, for jaxvideo "
        "(video ConvNets in JAX).",
        "```python\nimport jaxvideo\n\n"
        f'net = jaxvideo.load("hf:{repo}")\nprint(net.predict("clip.mp4").top(5))\n```',
        "## Origin",
        _table(("", ""), _origin(origin, license)),
        "## Accuracy",
        _accuracy(weights, metrics),
        "## Input",
        f"{weights.protocol.describe(weights.preprocessing)}.",
    ]
    if reference := origin.get("reference"):
        parts += ["## Parity", _parity(reference)]
    return "\n\n".join(parts) + "\n"


def _metrics(weights: Weights) -> Mapping[str, float]:
    """Returns the published accuracies; none if the weights are no longer the published ones."""
    return {} if weights.origin.get("left_out") else weights.origin.get("published") or {}


def _index(weights: Weights) -> dict[str, Any]:
    """Returns one result in the Hub's format."""
    data = weights.origin["data"][-1]
    kinds = {"mAP": "mean_average_precision"}
    return {
        "task": {"type": "video-classification"},
        "dataset": {"name": data, "type": data.lower().replace(" ", "-")},
        "metrics": [
            {
                "type": kinds.get(name, "accuracy"),
                "name": f"{name} ({weights.origin['protocol']})",
                "value": value,
                "verified": False,
            }
            for name, value in _metrics(weights).items()
        ],
        "source": {"name": "published with the weights", "url": weights.origin["page"]},
    }


def _origin(origin: Mapping[str, Any], license: str | None) -> list[tuple[str, str]]:
    note = f" ({origin['license_note']})" if origin.get("license_note") else ""
    rows = {
        "file": origin.get("file"),
        "SHA-256": origin.get("sha256"),
        "imported as": origin.get("source"),
        "address": origin.get("url"),
        "page": origin.get("page"),
        "trained on": " + ".join(origin.get("data", ())),
        "license": f"{license}{note}" if license else "not stated",
        "data terms": origin.get("terms"),
        "run": origin.get("run"),
        "step": origin.get("step"),
        "new values": ", ".join(origin.get("left_out") or ()),
    }
    return [(label, str(value)) for label, value in rows.items() if value not in (None, "")]


def _accuracy(weights: Weights, metrics: Mapping[str, float]) -> str:
    if not metrics:
        return "No accuracy is stated for these weights."
    origin = weights.origin
    rows = [(name, f"{value:g} %", origin["protocol"]) for name, value in metrics.items()]
    return (
        f"{_table(('metric', origin['data'][-1], 'protocol'), rows)}\n\nPublished with the "
        f"original file ({origin['evidence']}), not measured with jaxvideo."
    )


def _parity(reference: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, reference["clip"]))
    rows = [(stage, f"{value:.1e}") for stage, value in reference["stages"].items()]
    return (
        f"Largest difference to {reference['package']} on one random clip [{shape}], relative to "
        f"the largest value:\n\n{_table(('stage', 'difference'), rows)}"
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
