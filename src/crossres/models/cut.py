"""A network without its classifier: the final linear layer is cut off, and the cut is checked by running it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError, nearest, one_line

# Tried in order where a network's input size is not known.
PROBE_SIZES = (32, 224)


@dataclass
class Backbone:
    """A network without its classifier, and what it expects of images.

    Attributes:
        network: normalised images (B, 3, h, w) -> embedding (B, ``embedding_dim``).
        embedding_dim: width of the embedding.
        input_size: side in pixels that it reads; None to read images as they come.
        mean: per-channel mean that it was trained with; None if it has none of its own.
        std: per-channel standard deviation.
        classifier: the layer that was cut off; None if there was none.
        facts: what ``Encoder.architecture`` needs, beside the name, to build it again.
    """

    network: nn.Module
    embedding_dim: int
    input_size: int | None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    classifier: nn.Linear | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def cut_classifier(module: nn.Module, path: str | None, input_size: int | None, *, search: bool = True) -> Backbone:
    """Cut the final linear layer off a copy of the network.

    A layer counts as final only if applying it to the output of the rest gives the network's own output again: the
    last Linear of a transformer's trunk, say, does not. Without a ``path`` it is the last Linear, if that is final
    and ``search`` is true. The network is tried on images of side ``input_size``; with None, of ``PROBE_SIZES``.

    Raises:
        CrossresError: no such Linear, or not the last step; a network that does not run or has no embedding (B, d).
    """
    network = copy.deepcopy(module)
    linears = [name for name, layer in network.named_modules() if name and isinstance(layer, nn.Linear)]
    if path is not None and path not in linears:
        raise CrossresError(f"the module has no nn.Linear '{path}'{nearest(path, linears)}")
    chosen = path or (linears[-1] if linears and search else None)
    classifier = None if chosen is None else _cut(network, chosen, input_size)
    if classifier is None and path is not None:
        raise CrossresError(f"the layer '{path}' is not the module's last step; name the final nn.Linear")
    width = measure_embedding(network, input_size)
    facts = {"classifier": None if classifier is None else chosen}
    return Backbone(network, width, input_size, classifier=classifier, facts=facts)


def _cut(network: nn.Module, path: str, input_size: int | None) -> nn.Linear | None:
    """Take the layer out and return it; leave it in and return None if it is not the last step."""
    expected, images = _probe(network, input_size)
    parent, _, attribute = path.rpartition(".")
    owner = network.get_submodule(parent)
    layer: nn.Linear = getattr(owner, attribute)
    setattr(owner, attribute, nn.Identity())
    rest = _output(network, images)
    if rest.shape[-1] == layer.in_features:
        with torch.no_grad():
            if torch.allclose(layer(rest), expected, rtol=1e-3, atol=1e-4):
                return layer
    setattr(owner, attribute, layer)
    return None


def measure_embedding(network: nn.Module, input_size: int | None) -> int:
    """Return d of the network's embedding (B, d); raise CrossresError if it does not run or returns another shape."""
    embedding, _ = _probe(network, input_size)
    if embedding.ndim != 2:
        raise CrossresError(
            f"the network returns {tuple(embedding.shape)} for one image, not an embedding (1, d): pool it"
        )
    return int(embedding.shape[1])


def _probe(network: nn.Module, input_size: int | None) -> tuple[Tensor, Tensor]:
    """Run one image through the network in eval mode; return its output and the image."""
    first = next(iter(network.parameters()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    sizes = PROBE_SIZES if input_size is None else (input_size,)
    reason: Exception | None = None
    for size in sizes:
        images = torch.rand(1, 3, size, size, generator=generator).to(first.device, first.dtype)
        try:
            return _output(network, images), images
        except Exception as error:
            # A user's network may fail in any way at all; the first reason tells most.
            reason = reason or error
    assert reason is not None
    tried = " or ".join(f"{size}x{size}" for size in sizes)
    raise CrossresError(
        f"{type(network).__name__} cannot read images of {tried}: {one_line(reason, 160)}"
    ) from reason


def _output(network: nn.Module, images: Tensor) -> Tensor:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            output = network(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(output, Tensor):
        raise TypeError(f"it returns {type(output).__name__}, not one tensor")
    return output
