"""Cutting a network into an embedding part and its final linear layer, checked by running it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError, nearest

# Tried in order where a network's input size is not known.
PROBE_SIZES = (32, 224)


@dataclass
class Split:
    """A network without its final linear layer; ``classifier`` and ``path`` are None if it had none."""

    backbone: nn.Module
    classifier: nn.Linear | None = None
    path: str | None = None


def check_channels(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise CrossresError unless mean and std hold three numbers each and std is above 0."""
    if len(mean) != 3 or len(std) != 3:
        raise CrossresError(f"mean and std hold 3 numbers each, not {len(mean)} and {len(std)}")
    if min(std) <= 0:
        raise CrossresError(f"std {tuple(std)} must be above 0 in every channel")


def split_classifier(module: nn.Module, path: str | None, input_size: int | None, *, search: bool = True) -> Split:
    """Cut the final linear layer off a copy of the network.

    A layer counts as final only if applying it to what is left gives the network's own output again: the
    last Linear of a transformer's trunk, say, is not one.

    Args:
        module: the network; left unchanged.
        path: path of the layer; None for the last Linear, if that is final.
        input_size: side of the images it is tried on; None tries ``PROBE_SIZES``.
        search: whether to look for a layer where ``path`` is None.

    Raises:
        CrossresError: no Linear of that path, it is not the network's last step, or the network cannot run.
    """
    backbone = copy.deepcopy(module)
    linears = {name: part for name, part in backbone.named_modules() if name and isinstance(part, nn.Linear)}
    if path is not None and path not in linears:
        raise CrossresError(f"the module has no nn.Linear '{path}'{nearest(path, linears)}")
    if path is None and not (linears and search):
        return Split(backbone)
    chosen = path if path is not None else next(reversed(linears))
    expected, images = _probe(backbone, input_size)
    parent, _, attribute = chosen.rpartition(".")
    setattr(backbone.get_submodule(parent), attribute, nn.Identity())
    with torch.no_grad():
        left = _run(backbone, images)
        linear = linears[chosen]
        fits = left.shape[-1] == linear.in_features and torch.allclose(
            nn.functional.linear(left, linear.weight, linear.bias), expected, rtol=1e-3, atol=1e-4
        )
    if fits:
        return Split(backbone, linear, chosen)
    if path is not None:
        raise CrossresError(f"the layer '{path}' is not the module's last step; name the final nn.Linear")
    return Split(copy.deepcopy(module))


def measure_embedding(backbone: nn.Module, input_size: int | None) -> int:
    """Return d of the embedding (B, d) that the network gives.

    Raises:
        CrossresError: the network cannot run at that size, or gives something else.
    """
    embedding, _ = _probe(backbone, input_size)
    if embedding.ndim != 2:
        raise CrossresError(
            f"the network returns {tuple(embedding.shape)} for one image, not an embedding (1, d): pool it"
        )
    return int(embedding.shape[1])


def _probe(module: nn.Module, input_size: int | None) -> tuple[Tensor, Tensor]:
    """Run one image through the network in eval mode; return its output and the image."""
    first = next(iter(module.parameters()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    sizes = PROBE_SIZES if input_size is None else (input_size,)
    reason: Exception | None = None
    for size in sizes:
        images = torch.rand(1, 3, size, size, generator=generator).to(first.device, first.dtype)
        try:
            return _run(module, images), images
        except Exception as error:
            # A user's network may fail in any way at all; the first reason tells most.
            reason = reason or error
    tried = " or ".join(f"{size}x{size}" for size in sizes)
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    raise CrossresError(f"{type(module).__name__} cannot read images of {tried}: {lines[0]}") from reason


def _run(module: nn.Module, images: Tensor) -> Tensor:
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            output = module(images)
    finally:
        for part, mode in training.items():
            part.training = mode
    if not isinstance(output, Tensor):
        raise TypeError(f"it returns {type(output).__name__}, not one tensor")
    return output
