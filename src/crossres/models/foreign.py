"""Networks from elsewhere, without their classifier: a module at hand, a factory of one's own, any timm model."""

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError, library_errors, nearest, needs, one_line

# Tried in order where a network's input size is not known.
PROBE_SIZES = (32, 224)
# A transformer at a small size gets patches small enough for this many tokens along a side.
_TOKENS = 8


@dataclass
class Backbone:
    """A network without its classifier, and what it expects of images."""

    network: nn.Module  #: normalised images (B, 3, h, w) -> embedding (B, embedding_dim)
    embedding_dim: int
    input_size: int | None  #: side in pixels that it reads; None to read images as they come
    mean: Sequence[float] | None = None  #: per channel, that it was trained with; None if it has none of its own
    std: Sequence[float] | None = None
    classifier: nn.Linear | None = None  #: the layer that was cut off; None if there was none
    facts: Mapping[str, Any] = field(default_factory=dict)  #: for Encoder.architecture, to build it again


def cut_classifier(module: nn.Module, path: str | None, input_size: int | None, *, search: bool = True) -> Backbone:
    """Cut the final linear layer off a copy of the network.

    A layer counts as final only if applying it to the output of the rest gives the network's own output again: the
    last Linear of a transformer's trunk, say, does not. Without a ``path`` it is the last Linear, if that is final
    and ``search`` is true. The network is tried on images of side ``input_size``; with None, of ``PROBE_SIZES``.

    Raises:
        CrossresError: no such Linear, or not the last step; a network that does not run or has no embedding (B, d).
    """
    network = copy.deepcopy(module)
    linears = {name: layer for name, layer in network.named_modules() if name and isinstance(layer, nn.Linear)}
    if path is not None and path not in linears:
        raise CrossresError(f"the module has no nn.Linear '{path}'{nearest(path, linears)}")
    chosen = path or (list(linears)[-1] if linears and search else None)
    classifier = None
    if chosen is not None:
        expected, images = _probe(network, input_size)
        layer = linears[chosen]
        network.set_submodule(chosen, nn.Identity())
        rest = _output(network, images)
        with torch.no_grad():
            if rest.shape[-1] == layer.in_features and torch.allclose(layer(rest), expected, rtol=1e-3, atol=1e-4):
                classifier = layer
            else:
                network.set_submodule(chosen, layer)
    if classifier is None and path is not None:
        raise CrossresError(f"the layer '{path}' is not the module's last step; name the final nn.Linear")
    facts = {"classifier": None if classifier is None else chosen}
    return Backbone(network, measure_embedding(network, input_size), input_size, classifier=classifier, facts=facts)


def measure_embedding(network: nn.Module, input_size: int | None) -> int:
    """Return d of the network's embedding (B, d); raise CrossresError if it does not run or returns another shape."""
    embedding, _ = _probe(network, input_size)
    if embedding.ndim != 2:
        shape = tuple(embedding.shape)
        raise CrossresError(f"the network returns {shape} for one image, not an embedding (1, d): pool it")
    return int(embedding.shape[1])


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within the context the network is in eval mode and makes no gradients; its modules' modes come back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _probe(network: nn.Module, input_size: int | None) -> tuple[Tensor, Tensor]:
    """Run one image through the network in eval mode; return its output and the image."""
    first = next(iter(network.parameters()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    sizes = PROBE_SIZES if input_size is None else (input_size,)
    reasons: list[Exception] = []
    for size in sizes:
        images = torch.rand(1, 3, size, size, generator=generator).to(first.device, first.dtype)
        try:
            return _output(network, images), images
        except Exception as error:  # a user's network may fail in any way at all
            reasons.append(error)
    tried = " or ".join(f"{size}x{size}" for size in sizes)
    reason = one_line(reasons[0], 160)  # the first one tells most
    raise CrossresError(f"{type(network).__name__} cannot read images of {tried}: {reason}") from reasons[0]


def _output(network: nn.Module, images: Tensor) -> Tensor:
    with evaluating(network):
        output = network(images)
    if not isinstance(output, Tensor):
        raise TypeError(f"it returns {type(output).__name__}, not one tensor")
    return output


@contextmanager
def working_folder() -> Iterator[None]:
    """Within the context, modules are imported from the working folder, too, where no library has their name."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def find_factory(name: str) -> Callable[..., Any]:
    """Import the function or class ``package.module:callable``; raise CrossresError if there is none."""
    path, _, attribute = name.partition(":")
    # A config that names `os:...` is a mistake or an attack; no network lives in the standard library.
    if not path or not attribute or path.split(".")[0] in sys.stdlib_module_names:
        raise CrossresError(f"'{name}' is not a network; give BACKBONE, timm:NAME or package.module:callable")
    with library_errors(f"cannot import '{path}' for the model '{name}'"), working_folder():
        module = importlib.import_module(path)
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise CrossresError(f"'{path}' has no callable '{attribute}'{nearest(attribute, known)}")
    return factory


def factory_backbone(name: str, classes: int, input_size: int | None) -> Backbone:
    """Call the factory, with ``num_classes`` if it takes that and there are classes, and cut its classifier off.

    Raises:
        CrossresError: it cannot be imported, fails, or does not return an nn.Module that reads images.
    """
    factory = find_factory(name)
    try:
        takes_classes = "num_classes" in inspect.signature(factory).parameters
        with working_folder():
            network = factory(num_classes=classes) if takes_classes and classes else factory()
    except Exception as error:
        raise CrossresError(f"'{name}' failed: {type(error).__name__}: {one_line(error, 160)}") from error
    if not isinstance(network, nn.Module):
        raise CrossresError(f"'{name}' returns {type(network).__name__}, not a torch.nn.Module")
    # Without classes and without `num_classes` the last layer belongs to the embedding.
    return cut_classifier(network, None, input_size, search=bool(classes) or takes_classes)


def check_timm_name(name: str) -> None:
    """Raise CrossresError for a name that timm does not know, naming the nearest one, or where timm is missing."""
    with needs(f"the model timm:{name}", "timm"):
        import timm
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise CrossresError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")


def timm_backbone(
    name: str, input_size: int | None, small_input: Literal["auto", "yes", "no"], pretrained: bool
) -> Backbone:
    """Create a timm model without classifier for images of ``input_size``.

    Adapted to small images, a convolutional network's first strided convolution gets stride 1 and its stem's max
    pool goes away; a transformer whose patches would leave fewer than 8 tokens along a side gets smaller patches.
    Transformers are always created for ``input_size``; with None, one of a fixed size keeps its own. With
    ``small_input="auto"`` models are adapted for an ``input_size`` up to 64 pixels.

    Raises:
        CrossresError: the model cannot read that size. `check_timm_name` refuses other names.
    """
    import timm

    small = input_size is not None and input_size <= 64
    adapt = small if small_input == "auto" else small_input == "yes"
    create: Callable[..., Any] = partial(timm.create_model, name, num_classes=0, pretrained=pretrained)
    sized = {} if input_size is None else {"img_size": input_size}
    with library_errors(f"timm cannot create '{name}' for input_size {input_size}"):
        try:
            model = create(**sized)
        except TypeError:
            sized, model = {}, create()  # not a transformer: it reads any size
        if adapt and sized:
            patch = getattr(getattr(model, "patch_embed", None), "patch_size", None) or 0
            largest = max(1, sized["img_size"] // _TOKENS)
            if (patch if isinstance(patch, int) else patch[-1]) > largest:
                model = create(**sized, patch_size=largest)
        elif adapt:
            _soften_stem(model)
    published: dict[str, Any] = model.pretrained_cfg
    if input_size is None and published.get("fixed_input_size"):
        input_size = int(published["input_size"][-1])
    mean, std = (tuple(published.get(key, ())) or (0.5, 0.5, 0.5) for key in ("mean", "std"))
    width, facts = measure_embedding(model, input_size), {"small_input": "yes" if adapt else "no"}
    return Backbone(model, width, input_size, mean, std, facts=facts)


def _soften_stem(model: nn.Module) -> None:
    """Stride 1 for the first strided convolution, no max pool before the second: timm lists modules as they run."""
    first = None
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            if first is not None:
                return
            first = module
            module.stride = (1, 1)
            if module.padding == (0, 0):
                # A patch stem (kernel = stride, no padding) would lose its border at stride 1.
                module.padding = "same"
        elif first is not None and isinstance(module, nn.MaxPool2d):
            model.set_submodule(path, nn.Identity())
            return
