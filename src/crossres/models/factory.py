"""A user's own network, named as ``package.module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from crossres.core.errors import CrossresError, nearest


@dataclass
class Made:
    """A factory's network, and whether the factory takes ``num_classes``."""

    network: nn.Module
    takes_classes: bool


def find_factory(name: str) -> Callable[..., Any]:
    """Import the callable of ``package.module:callable``, a function or a class.

    Raises:
        CrossresError: it cannot be imported, or is no callable.
    """
    path, _, attribute = name.partition(":")
    # A config that names `os:...` is a mistake or an attack; no network lives in the standard library.
    if not path or not attribute or path.split(".")[0] in sys.stdlib_module_names:
        raise CrossresError(f"'{name}' names no network; give BACKBONE, timm:NAME or package.module:callable")
    try:
        module = importlib.import_module(path)
    except Exception as error:
        raise CrossresError(f"cannot import '{path}' for the model '{name}': {error}") from error
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise CrossresError(f"'{path}' has no callable '{attribute}'{nearest(attribute, known)}")
    return factory


def call_factory(name: str, classes: int) -> Made:
    """Import the callable and call it, with ``num_classes`` if it takes such an argument.

    Args:
        name: ``package.module:callable``.
        classes: passed as ``num_classes`` if above 0.

    Raises:
        CrossresError: it cannot be imported, fails, or gives no nn.Module.
    """
    factory = find_factory(name)
    try:
        takes_classes = "num_classes" in inspect.signature(factory).parameters
        network = factory(num_classes=classes) if takes_classes and classes else factory()
    except Exception as error:
        raise CrossresError(f"'{name}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise CrossresError(f"'{name}' gives {type(network).__name__}, not a torch.nn.Module")
    return Made(network, takes_classes)
