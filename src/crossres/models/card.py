"""The model card that travels with saved weights: only facts and numbers that were recorded."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

# Entries of config.json that stand elsewhere in the card, or of no interest there.
_LEFT_OUT = {"results", "architecture", "embedding_dim", "input_size", "format_version", "model_sha256"} | {
    *("name", "license", "base_model")
}
_USE = """```python
import torch
import crossres

encoder = crossres.load("FOLDER_OR_HUB_ID")
outputs = encoder(torch.rand(1, 3, {size}, {size}))  # images in 0..1; resizing and normalisation are inside
```"""


def render_card(config: Mapping[str, Any]) -> str:
    """Return the README.md of a model folder, Hugging Face front matter included, from its config.json.

    ``results`` of the config hold the measured numbers, nested or not; ``license`` and ``base_model`` are repeated.
    """
    front = {key: config[key] for key in ("license", "base_model") if config.get(key)} | {
        "library_name": "crossres",
        "pipeline_tag": "image-classification" if config["classes"] else "image-feature-extraction",
        "tags": ["crossres", "low-resolution", "knowledge-distillation", "pytorch"],
    }
    results = dict(_flatten(config.get("results") or {}))
    if any("top1" in name or "top-1" in name or "accuracy" in name for name in results):
        front["metrics"] = ["accuracy"]
    size = config.get("lr_size") or config["input_size"] or 32
    facts = {
        "architecture": config["architecture"].get("name"),
        "classes": len(config["classes"]),
        "embedding": f"{config['embedding_dim']} numbers",
        "input size": f"{config['input_size']} px" if config["input_size"] else "any",
    }
    hidden = _LEFT_OUT | {key for key, value in config.items() if isinstance(value, (list, tuple))}
    facts |= _flatten({key: value for key, value in config.items() if key not in hidden})
    measured = _table(results, "measure") if results else "None were recorded with these weights."
    name = str(config.get("name") or f"{facts['architecture']}, {facts['classes']} classes")
    return "\n".join(
        (
            f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
            f"# {_line(name)}\n",
            "An image encoder for low resolution, trained with crossres. The folder holds this network",
            "alone: no teacher and no parts that serve training only.\n",
            f"## Results\n\n{measured}\n",
            f"## Facts\n\n{_table(facts, 'fact')}\n",
            f"## Use\n\n{_USE.format(size=size)}\n",
        )
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key} / ")
        elif value is not None:
            yield f"{prefix}{key}", value


def _table(values: Mapping[str, Any], title: str) -> str:
    rows = [f"| {_line(key)} | {_line(value)} |" for key, value in values.items()]
    return "\n".join((f"| {title} | value |", "|---|---|", *rows))


def _line(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
