"""Options as they are written: plain dicts, YAML, what may be published, and the hash of what decides the numbers."""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from crossres.config.experiment import Experiment
from crossres.models.onnx_input import ONNX

#: Options of an experiment that are paths, where it has them; a model's name and weights may be further ones.
PATHS = ("data", "natural", "natural_labels", "unlabelled", "teacher", "pairs", "cache_dir", "runs")


def to_dict(config: Any) -> dict[str, Any]:
    """Return plain nested dicts and lists, as they go into YAML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, Path):
            return str(value)
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    tree: dict[str, Any] = plain(asdict(config))
    if tree.get("method", "") is None:
        del tree["method"]
    return tree


def to_yaml(config: Any) -> str:
    """Return YAML that reproduces the run."""
    text: str = yaml.safe_dump(to_dict(config), sort_keys=False)
    return text


def portable(config: Experiment) -> dict[str, Any]:
    """Return the config without the paths of this machine, as it may be published."""
    tree = to_dict(config)
    for key in PATHS:
        if isinstance(tree.get(key), str):
            tree[key] = base_name(tree[key])
    tree["model"]["name"] = network_name(tree["model"]["name"])
    if tree["model"]["weights"]:
        tree["model"]["weights"] = base_name(tree["model"]["weights"])
    if tree["images"]["root"]:
        tree["images"]["root"] = "ROOT"
    return tree


def network_name(name: str) -> str:
    """Return a network's name without the folders of an ONNX file."""
    return ONNX + base_name(name.removeprefix(ONNX)) if name.startswith(ONNX) else name


def base_name(path: str) -> str:
    """Return the last part of a path, also where it is written ``.`` or ends in a slash."""
    return os.path.basename(os.path.abspath(path))


def sha256(config: Experiment) -> str:
    """Return the hash of every option that decides the numbers, not of names and folders.

    The contents of files are not hashed: ``result.json`` has the digests of images, teacher and start weights beside.
    """
    tree = portable(config)
    for key in ("name", "runs", "cache_dir", "engine"):
        tree.pop(key, None)
    later: dict[str, dict[str, Any]] = {
        "images": {"range": None, "verify": False, "buffer": 16_384},
        "train": {"accumulate": 1},
    }
    if tree.get("teacher_top_k") == 0:
        del tree["teacher_top_k"]
    for part, defaults in later.items():  # earlier runs have no such options
        for key, default in defaults.items():
            if tree[part][key] == default:
                del tree[part][key]
    return hashlib.sha256(yaml.safe_dump(tree).encode()).hexdigest()
