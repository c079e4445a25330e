"""Saving an encoder to a folder and reading it back, from disk or from the Hugging Face Hub.

A folder holds ``model.safetensors`` (the encoder's weights), ``config.json`` (how to build it, and facts
about it) and ``README.md`` (the model card). Reading it never unpickles.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossres import __version__
from crossres.core.errors import CrossresError, library_errors, needs, one_line
from crossres.core.files import part_of, sweep
from crossres.models.card import render_card
from crossres.models.encoder import Encoder, build_encoder, wrap
from crossres.models.onnx_encoder import COPY, onnx_copy
from crossres.models.onnx_input import OnnxInput, open_session
from crossres.models.weights import fit_weights, plain_state, read_safetensors
from crossres.models.zoo import hint, names

FORMAT_VERSION = 1
#: Of a file that may come from anybody: bytes of its config, side of its input in pixels, width of its embedding.
LONGEST_CONFIG, LARGEST_SIDE, WIDEST = 16 * 2**20, 4096, 2**16
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_REQUIRED = ("format_version", "architecture", "classes", "input_size", "mean", "std")
_RESERVED = frozenset((*_REQUIRED, "crossres_version", "embedding_dim", "model_sha256"))
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def save_pretrained(encoder: Encoder, folder: str | Path, *, info: Mapping[str, Any] | None = None) -> None:
    """Write the encoder to a folder: all of it, or nothing.

    An existing folder gets the three files replaced and keeps its other files. An encoder made by ``wrap``
    can be saved too; reading it back needs the module (``crossres.load(folder, backbone=module)``).

    Args:
        encoder: the network to save.
        folder: where to; parents are created.
        info: facts to keep beside it as ``encoder.info``: JSON values; ``results`` appear in the model card.
            None keeps ``encoder.info``. The names of config.json's own entries are not available.

    Raises:
        CrossresError: the folder cannot be written (a full disk, say), or JSON cannot hold info.
    """
    from safetensors.torch import save

    folder = Path(folder)
    facts = _plain(encoder.info if info is None else info, "info")
    if taken := sorted(_RESERVED & facts.keys()):
        raise CrossresError(f"info holds '{taken[0]}', which config.json keeps for itself; choose another name")
    # copies on the CPU: safetensors refuses tensors that share memory or are not contiguous
    state = {
        key: value.to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, value in plain_state(encoder).items()
    }
    weights = save(state, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "crossres_version": __version__,
        "architecture": encoder.architecture,
        "classes": list(encoder.classes),
        "input_size": encoder.input_size,
        "mean": _numbers(encoder.mean),
        "std": _numbers(encoder.std),
        "embedding_dim": encoder.embedding_dim,
        # ties the two files together: a save that was cut off between their renames is noticed
        "model_sha256": hashlib.sha256(weights).hexdigest(),
        **facts,
    }
    files = {
        WEIGHTS: weights,
        CARD: render_card(config).encode(),
        CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    source = getattr(encoder.backbone, "source", None)
    if isinstance(source, Path):
        files[source.name] = source.read_bytes()
    _write_together(folder, files)


def from_pretrained(
    path: str | Path, *, backbone: nn.Module | None = None, trust_code: bool = False, revision: str | None = None
) -> Encoder:
    """Read an encoder that ``save_pretrained`` wrote; it comes back on the CPU in eval mode.

    Args:
        path: the folder of a model or of a run, or the id ``owner/name`` of a model on the Hugging Face Hub.
        backbone: the module that was wrapped, with any weights; for encoders made by ``wrap``, and for
            factories (``package.module:callable``) where their code is not to be imported on the model's word.
        trust_code: import and call the factory that the model names.
        revision: branch, tag or commit on the Hub.

    Raises:
        CrossresError: nothing there, a file is missing, broken, or does not fit the others.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = _download(str(path), revision)
    elif (folder / "model" / CONFIG).is_file():
        folder = folder / "model"
    config = _read_config(folder / CONFIG)
    encoder = _rebuild(config, folder, backbone, str(path), trust_code=trust_code)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CrossresError(f"there is no {WEIGHTS} in {folder}; crossres reads weights from safetensors only")
    content = weights.read_bytes()
    fit_weights(encoder, read_safetensors(content, weights), str(weights))
    expected = config.get("model_sha256")
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise CrossresError(f"{weights} and {CONFIG} do not match (interrupted save?); save again")
    encoder.info = {key: value for key, value in config.items() if key not in _RESERVED}
    return encoder.eval()


def push_to_hub(
    encoder: Encoder, repo_id: str, *, info: Mapping[str, Any] | None = None, private: bool = True
) -> str:
    """Save the encoder to the Hugging Face Hub with the token that ``hf auth login`` stored; return its URL.

    Raises:
        CrossresError: no huggingface_hub, no permission, no network.
    """
    with needs("the Hugging Face Hub", "train"):
        import huggingface_hub as hub
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        save_pretrained(encoder, folder, info=info)
        with library_errors(f"cannot push to the Hub model '{repo_id}'"):
            url = hub.create_repo(repo_id, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a crossres encoder")
    return str(url)


def _rebuild(
    config: dict[str, Any], folder: Path, backbone: nn.Module | None, where: str, *, trust_code: bool
) -> Encoder:
    architecture = config["architecture"]
    name = str(architecture.get("name"))
    shared: dict[str, Any] = {key: config[key] for key in ("classes", "input_size", "mean", "std")}
    # Fresh weights are drawn only to be replaced: leave the caller's random state alone.
    with torch.random.fork_rng(devices=[]):
        if backbone is not None:
            encoder = wrap(backbone, classifier=architecture.get("classifier"), **shared)
        elif name == "wrapped":
            kind = architecture.get("module", "a module")
            raise CrossresError(f"this model wraps {kind}: give it as crossres.load(..., backbone=module)")
        elif name == COPY:
            declared = {key.removeprefix("onnx_"): value for key, value in architecture.items() if key[:5] == "onnx_"}
            file = folder / str(architecture.get("file"))
            declared["output"] = declared.get("output") or open_session(file).get_outputs()[0].name  # as it was saved
            encoder = onnx_copy(file, OnnxInput(**declared), config["classes"], config["input_size"])
        elif ":" in name and not name.startswith("timm:") and not trust_code:
            raise CrossresError(
                f"the model {where} would run code '{name}'; if you trust it, set trust_code, or give backbone="
            )
        else:
            options = {key: architecture[key] for key in ("embedding_dim", "small_input") if key in architecture}
            encoder = build_encoder(name, **options, **shared)
    encoder.architecture = architecture
    return encoder


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CrossresError(f"there is no {CONFIG} in {path.parent}: not a folder that crossres saved")
    if path.stat().st_size > LONGEST_CONFIG:
        raise CrossresError(f"{path} has more than {LONGEST_CONFIG // 2**20} MB: not one that crossres saved")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CrossresError(f"{path} is broken: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise CrossresError(f"{path} is not a JSON object: not a folder that crossres saved")
    if missing := [key for key in _REQUIRED if key not in config]:
        raise CrossresError(f"{path} has no '{missing[0]}': not a folder that crossres saved, or a broken one")
    if config["format_version"] != FORMAT_VERSION:
        raise CrossresError(
            f"{path} has format_version {config['format_version']}, this crossres reads {FORMAT_VERSION}; "
            f"install the crossres that wrote it ({config.get('crossres_version', 'unknown')})"
        )
    architecture, classes, mean, std = (config[key] for key in ("architecture", "classes", "mean", "std"))
    lr_size, limits = config.get("lr_size"), config.get("range") or []
    sizes = lr_size if isinstance(lr_size, list) else [lr_size, lr_size]
    sound = (
        isinstance(architecture, dict)
        and _is_count(architecture.get("embedding_dim"), WIDEST)
        and len(sizes) == 2
        and all(_is_count(size, LARGEST_SIDE) for size in (config["input_size"], config.get("hr_size"), *sizes))
        and all(isinstance(values, list) for values in (classes, mean, std, limits))
        and all(isinstance(name, str) for name in classes)
        and all(isinstance(value, (int, float)) and abs(value) < 1e6 for value in (*mean, *std))
        and all(isinstance(value, (int, float)) for value in (*limits, config.get("test_fraction") or 0))
    )
    if not sound:
        what = "architecture, classes, sizes, mean, std, range or test_fraction"
        raise CrossresError(f"{path} is broken: its {what} cannot be right")
    return config


def _is_count(value: Any, most: int) -> bool:
    """Return whether a value is None or a whole number from 1 to ``most``."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most)


def _write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a sibling folder first; renames, which need no space, come last."""
    if folder.exists() and not folder.is_dir():
        raise CrossresError(f"cannot save to {folder}: it is a file; name a folder")
    beside = part_of(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        shutil.rmtree(beside, ignore_errors=True)  # of a killed process of this one's number
        beside.mkdir()
        for name, content in files.items():
            with (beside / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.is_dir():
            for name in files:
                os.replace(beside / name, folder / name)
        else:
            os.rename(beside, folder)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CrossresError(f"cannot save to {folder}: {reason}; what was there is unchanged") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _download(repo_id: str, revision: str | None) -> Path:
    if Path(repo_id).is_file():
        raise CrossresError(
            f"{repo_id} is a file, expected a saved model's folder; for a teacher that is a plain checkpoint give "
            "teacher_name, its architecture, too"
        )
    if not _HUB_ID.fullmatch(repo_id):
        if repo_id in names():
            what = "a ready model, which answers and is judged as it is"
            raise CrossresError(f"{repo_id} is {what}; give a run's or a model's folder")
        end = hint(repo_id) if Path(repo_id).name == repo_id else ""  # a path is no ready model's name
        raise CrossresError(f"there is no folder {repo_id}, and it is not a Hub id (owner/name) either{end}")
    with needs("the Hugging Face Hub", "train"):
        import huggingface_hub as hub
    files = [WEIGHTS, CONFIG, CARD, "*.onnx"]
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=files))
    except Exception as error:
        raise CrossresError(
            f"there is no folder {repo_id}, and no model of that name could be fetched from the Hugging Face Hub "
            f"({type(error).__name__}): check the name, or go online"
        ) from error


def _numbers(values: Tensor) -> list[float]:
    """Return the shortest decimals that give back the same float32 numbers."""
    return [float(str(number)) for number in values.detach().float().cpu().flatten().numpy()]


def _plain(value: Any, where: str) -> Any:
    """Return the value as strict JSON holds it; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, where) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise CrossresError(f"{where} is {type(value).__name__}, which JSON cannot hold; give numbers and texts")
    return None if isinstance(value, float) and not math.isfinite(value) else value
