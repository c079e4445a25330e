"""Images with labels, and the readers that find them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossres.data.images import ImageSet
    from crossres.data.readers import read
    from crossres.data.splits import stratified_split

__all__ = ["ImageSet", "read", "stratified_split"]

# Looked up at first use, so that importing a neighbour does not import torch.
_HOME = {
    "ImageSet": "crossres.data.images",
    "read": "crossres.data.readers",
    "stratified_split": "crossres.data.splits",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
