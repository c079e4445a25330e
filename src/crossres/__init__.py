"""crossres: recognise objects and faces in tiny images by cross-resolution distillation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossres.config.options import Augment, Distill, Faces, Images, Model, Teach, Train
    from crossres.core.errors import CrossresError
    from crossres.data.degradation import Degradation
    from crossres.data.readers import read
    from crossres.deploy.export import export
    from crossres.deploy.gallery import Gallery
    from crossres.deploy.recognizer import Recognizer
    from crossres.models.encoder import Encoder, build_encoder, wrap
    from crossres.models.pretrained import from_pretrained as load
    from crossres.training.run import distill, teach

__version__ = "0.1.0"

# Looked up at first use: `import crossres` and `crossres --help` load none of the heavy packages.
_HOME = {
    "Augment": ("crossres.config.options", "Augment"),
    "CrossresError": ("crossres.core.errors", "CrossresError"),
    "Degradation": ("crossres.data.degrade", "Degradation"),
    "Distill": ("crossres.config.options", "Distill"),
    "Faces": ("crossres.config.options", "Faces"),
    "Gallery": ("crossres.deploy.gallery", "Gallery"),
    "Encoder": ("crossres.models.encoder", "Encoder"),
    "Images": ("crossres.config.options", "Images"),
    "Model": ("crossres.config.options", "Model"),
    "Recognizer": ("crossres.deploy.recognizer", "Recognizer"),
    "Teach": ("crossres.config.options", "Teach"),
    "Train": ("crossres.config.options", "Train"),
    "build_encoder": ("crossres.models.encoder", "build_encoder"),
    "export": ("crossres.deploy.export", "export"),
    "distill": ("crossres.training.run", "distill"),
    "load": ("crossres.models.pretrained", "from_pretrained"),
    "read": ("crossres.data.readers", "read"),
    "teach": ("crossres.training.run", "teach"),
    "wrap": ("crossres.models.encoder", "wrap"),
}

__all__ = [
    "Augment",
    "CrossresError",
    "Degradation",
    "Distill",
    "Encoder",
    "Faces",
    "Gallery",
    "Images",
    "Model",
    "Recognizer",
    "Teach",
    "Train",
    "build_encoder",
    "distill",
    "export",
    "load",
    "read",
    "teach",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)
