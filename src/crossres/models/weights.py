"""Weights of an encoder: reading them from plain checkpoints, fitting them, their digest."""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from crossres.core.errors import CrossresError, library_errors
from crossres.models.encoder import Encoder

# What training wraps around a network, and what checkpoints wrap around its weights.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_CONTAINERS = ("state_dict", "model", "model_state_dict")
_HEAD = re.compile(r"(?:.*\.)?(?:fc|linear|classifier|head)(?:\.(?:\d+|fc|head))*\.(weight|bias)")


def plain_state(encoder: Encoder) -> dict[str, Tensor]:
    """Return the encoder's weights under their own names, compiled and wrapped encoders included."""
    state = encoder.state_dict()
    return {key.replace("_orig_mod.", "").removeprefix("module."): value.detach() for key, value in state.items()}


def weights_sha256(encoder: Encoder) -> str:
    """Return a digest of all that decides the encoder's outputs, as 64 hex digits.

    That is the architecture, the preprocessing and every weight, whatever the process, device and memory format.
    """
    digest = hashlib.sha256()
    settings = [encoder.architecture, encoder.input_size, list(encoder.classes)]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    state = plain_state(encoder) | {"mean": encoder.mean, "std": encoder.std}
    for key in sorted(state):
        value = state[key].cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_weights(encoder: Encoder, path: str | Path) -> None:
    """Read a plain checkpoint into the encoder; nothing in the file is executed.

    Takes the weights of an encoder or of the bare network, in ``.safetensors`` or as ``torch.save`` writes them, also
    inside ``{"state_dict": ...}`` or ``{"model": ...}`` and under ``module.`` prefixes. A final layer named fc,
    linear, classifier or head becomes the encoder's classifier; an encoder without a classifier leaves it out.

    Raises:
        CrossresError: the file is missing, broken or holds more than weights, or the weights do not fit.
    """
    source = _read_checkpoint(Path(path))
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in source)), None):
        source = {key.removeprefix(prefix): value for key, value in source.items()}
    target = encoder.state_dict()
    if not any(key.startswith("backbone.") and key in target for key in source):
        cut = encoder.architecture.get("classifier")
        bare, source = source, {}
        for key, value in bare.items():
            layer, _, kind = key.rpartition(".")
            if f"backbone.{key}" in target:
                source[f"backbone.{key}"] = value
            elif not _HEAD.fullmatch(key) and layer != cut:
                source[key] = value
            elif encoder.classifier is not None:
                source[f"classifier.{kind}"] = value
    fit_weights(encoder, source, f"the checkpoint {path}")


def fit_weights(encoder: Encoder, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy the weights into the encoder if every name and shape fits; else raise CrossresError and change nothing."""
    target = encoder.state_dict()
    # The counter decides nothing where momentum is fixed, and older checkpoints lack it.
    missing = [key for key in target if key not in weights and not key.endswith("num_batches_tracked")]
    unknown = [key for key in weights if key not in target]
    shapes = [key for key in target if key in weights and target[key].shape != weights[key].shape]
    if shapes == ["classifier.weight", "classifier.bias"] and not missing and not unknown:
        count, own = len(weights["classifier.bias"]), len(encoder.classes)
        raise CrossresError(f"{where} has a classifier of {count} classes, the encoder one of {own}; name the same")
    kinds = (("weights are missing", missing), ("are unknown", unknown), ("differ in shape", shapes))
    reasons = [f"{len(keys)} {what}, first '{keys[0]}'" for what, keys in kinds if keys]
    if shapes:
        pair = tuple(weights[shapes[0]].shape), tuple(target[shapes[0]].shape)
        reasons[-1] += f": {pair[0]} in the file, {pair[1]} in the network"
    if reasons:
        name = encoder.architecture.get("name", "the network")
        raise CrossresError(f"{where} does not fit the architecture '{name}': {'; '.join(reasons)}")
    encoder.load_state_dict(dict(weights), strict=False)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CrossresError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        return read_safetensors(path.read_bytes(), path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CrossresError(
            f"the checkpoint {path} is broken or holds more than weights; save model.state_dict() alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, BadZipFile) as error:
        raise CrossresError(f"the checkpoint {path} is truncated or not a PyTorch file") from error
    for container in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
    if not isinstance(content, Mapping):
        raise CrossresError(f"the checkpoint {path} holds {type(content).__name__}, not weights by name")
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise CrossresError(f"the checkpoint {path} holds no weights; save model.state_dict()")
    for key, value in weights.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise CrossresError(
                f"the checkpoint {path}: '{key}' is sparse, quantised or without values; save it dense"
            )
    return weights


def read_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Parse the bytes of a safetensors file; raise CrossresError if they are truncated or of another kind."""
    from safetensors.torch import load

    with library_errors(f"{path} is truncated or not a safetensors file"):
        return load(content)
