"""Any timm model as a backbone, adapted to small images where asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from crossres.core.errors import CrossresError, nearest
from crossres.models.split import measure_embedding

# A transformer at a small size gets patches small enough for this many tokens along a side.
_TOKENS = 8


@dataclass
class TimmBackbone:
    """A timm model without its classifier, and what it expects of images."""

    backbone: nn.Module
    embedding_dim: int
    input_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def check_timm_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        CrossresError: naming the nearest right one; or timm is missing.
    """
    try:
        import timm
    except ImportError as error:
        raise CrossresError("models named timm:NAME need timm; pip install 'crossres[timm]'") from error
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise CrossresError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")


def timm_backbone(name: str, input_size: int | None, *, adapt: bool, pretrained: bool) -> TimmBackbone:
    """Create a timm model without classifier for images of ``input_size``.

    ``adapt`` fits a model made for large images to small ones: a convolutional network's first strided
    convolution gets stride 1 and its stem's max pool goes away; a transformer whose patches would leave fewer
    than 8 tokens along a side gets smaller patches. Transformers are always created for ``input_size``;
    with None, one of a fixed size keeps its own.

    Args:
        name: a timm model name, such as ``resnet18`` or ``vit_tiny_patch16_224``.
        input_size: side of the images in pixels.
        adapt: whether to fit the stem to small images.
        pretrained: whether timm loads its published weights (a download).

    Raises:
        CrossresError: timm is missing, the name is unknown, or the model cannot read that size.
    """
    check_timm_name(name)
    try:
        model = _create(name, input_size, adapt=adapt, pretrained=pretrained)
    except CrossresError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CrossresError(f"timm cannot create '{name}' for input_size {input_size}: {reason[0]}") from error
    published: dict[str, Any] = model.pretrained_cfg
    if input_size is None and published.get("fixed_input_size"):
        input_size = int(published["input_size"][-1])
    return TimmBackbone(
        model,
        measure_embedding(model, input_size),
        input_size,
        tuple(published.get("mean", ())) or (0.5, 0.5, 0.5),
        tuple(published.get("std", ())) or (0.5, 0.5, 0.5),
    )


def _create(name: str, input_size: int | None, *, adapt: bool, pretrained: bool) -> Any:
    import timm

    arguments: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    if input_size is not None:
        try:
            model = timm.create_model(name, img_size=input_size, **arguments)
        except TypeError:
            pass  # Not a transformer: it reads any size.
        else:
            patch = _patch_size(model)
            wanted = max(1, input_size // _TOKENS)
            if adapt and patch is not None and patch > wanted:
                model = timm.create_model(name, img_size=input_size, patch_size=wanted, **arguments)
            return model
    model = timm.create_model(name, **arguments)
    if adapt:
        _soften_stem(model)
    return model


def _patch_size(model: Any) -> int | None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None:
        return None
    return int(patch if isinstance(patch, int) else patch[-1])


def _soften_stem(model: nn.Module) -> None:
    """Stride 1 for the first strided convolution; no max pool between it and the second one.

    Relies on timm registering modules in the order in which they run.
    """
    found = False
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            if found:
                return
            found = True
            module.stride = (1, 1)
            if module.padding == (0, 0):
                # A patch stem (kernel = stride, no padding) would lose its border at stride 1.
                module.padding = "same"
        elif found and isinstance(module, nn.MaxPool2d):
            model.set_submodule(path, nn.Identity())
            return
