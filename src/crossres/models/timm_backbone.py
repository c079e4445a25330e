"""Any timm model as a backbone, adapted to small images where asked."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from crossres.core.errors import CrossresError, library_errors, nearest, needs
from crossres.models.cut import Backbone, measure_embedding

# A transformer at a small size gets patches small enough for this many tokens along a side.
_TOKENS = 8


def check_timm_name(name: str) -> None:
    """Raise CrossresError for a name that timm does not know, naming the nearest one, or where timm is missing."""
    with needs(f"the model timm:{name}", "timm"):
        import timm
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise CrossresError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")


def timm_backbone(
    name: str, input_size: int | None, *, small_input: Literal["auto", "yes", "no"], pretrained: bool
) -> Backbone:
    """Create a timm model without classifier for images of ``input_size``.

    Adapted to small images, a convolutional network's first strided convolution gets stride 1 and its stem's max
    pool goes away; a transformer whose patches would leave fewer than 8 tokens along a side gets smaller patches.
    Transformers are always created for ``input_size``; with None, one of a fixed size keeps its own. With
    ``small_input="auto"`` models are adapted for an ``input_size`` up to 64 pixels.

    Raises:
        CrossresError: timm is missing, the name is unknown, or the model cannot read that size.
    """
    check_timm_name(name)
    small = input_size is not None and input_size <= 64
    adapt = small if small_input == "auto" else small_input == "yes"
    with library_errors(f"timm cannot create '{name}' for input_size {input_size}"):
        model = _create(name, input_size, adapt=adapt, pretrained=pretrained)
    published: dict[str, Any] = model.pretrained_cfg
    if input_size is None and published.get("fixed_input_size"):
        input_size = int(published["input_size"][-1])
    mean, std = (tuple(published.get(key, ())) or (0.5, 0.5, 0.5) for key in ("mean", "std"))
    width, facts = measure_embedding(model, input_size), {"small_input": "yes" if adapt else "no"}
    return Backbone(model, width, input_size, mean, std, facts=facts)


def _create(name: str, input_size: int | None, *, adapt: bool, pretrained: bool) -> Any:
    import timm

    arguments: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    if input_size is not None:
        try:
            model = timm.create_model(name, img_size=input_size, **arguments)
        except TypeError:
            pass  # Not a transformer: it reads any size.
        else:
            patch = getattr(getattr(model, "patch_embed", None), "patch_size", None) or 0
            largest = max(1, input_size // _TOKENS)
            if adapt and (patch if isinstance(patch, int) else patch[-1]) > largest:
                model = timm.create_model(name, img_size=input_size, patch_size=largest, **arguments)
            return model
    model = timm.create_model(name, **arguments)
    if adapt:
        _soften_stem(model)
    return model


def _soften_stem(model: nn.Module) -> None:
    """Stride 1 for the first strided convolution; no max pool between it and the second one.

    Relies on timm registering modules in the order in which they run.
    """
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
