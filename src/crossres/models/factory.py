"""A user's own network, named as ``package.module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from crossres.core.errors import CrossresError, library_errors, nearest, one_line
from crossres.models.cut import Backbone, cut_classifier


def find_factory(name: str) -> Callable[..., Any]:
    """Import the function or class ``package.module:callable``; raise CrossresError if there is none."""
    path, _, attribute = name.partition(":")
    # A config that names `os:...` is a mistake or an attack; no network lives in the standard library.
    if not path or not attribute or path.split(".")[0] in sys.stdlib_module_names:
        raise CrossresError(f"'{name}' is not a network; give BACKBONE, timm:NAME or package.module:callable")
    with library_errors(f"cannot import '{path}' for the model '{name}'"):
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
        network = factory(num_classes=classes) if takes_classes and classes else factory()
    except Exception as error:
        raise CrossresError(f"'{name}' failed: {type(error).__name__}: {one_line(error, 160)}") from error
    if not isinstance(network, nn.Module):
        raise CrossresError(f"'{name}' returns {type(network).__name__}, not a torch.nn.Module")
    # Without classes and without `num_classes` the last layer belongs to the embedding.
    return cut_classifier(network, None, input_size, search=bool(classes) or takes_classes)
