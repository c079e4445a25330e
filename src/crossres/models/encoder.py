"""The encoder: one network with its own input size and normalisation, its classifier and its class names."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.core.errors import CrossresError, nearest
from crossres.core.types import Outputs
from crossres.models import foreign
from crossres.models.backbones import BACKBONES
from crossres.models.onnx_input import ONNX

# A neutral normalisation for networks that come with none: independent of any data set.
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)


class Encoder(nn.Module):
    """Preprocessing + backbone (+ projection) + linear classifier.

    Args:
        backbone: normalised images (B, 3, s, s) -> embedding (B, ``embedding_dim``).
        embedding_dim: width of what the backbone returns.
        classes: class names in the order of the logits; empty for an encoder without a classifier.
        input_size: side in pixels that the backbone reads; images of another size are resized to it by
            antialiased bicubic interpolation. None: images of any size are read as they come.
        mean: per-channel mean, for images in 0..1.
        std: per-channel standard deviation, above 0.
        architecture: what ``from_pretrained`` needs to build the same network again.
        projection_dim: width of a linear projection after the backbone; None for none.

    Attributes:
        backbone, projection, classifier: the trained parts; ``projection`` and ``classifier`` may be None.
        embedding_dim: width of ``Outputs.embedding``, after the projection.
        info: free facts that travel with the weights (sizes, degradation, results).
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        embedding_dim: int,
        classes: Sequence[str],
        input_size: int | None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        architecture: Mapping[str, Any] | None = None,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise CrossresError(f"mean and std hold 3 numbers each, not {len(mean)} and {len(std)}")
        if min(std) <= 0:
            raise CrossresError(f"std {tuple(std)} must be above 0 in every channel")
        if input_size is not None and input_size < 1:
            raise CrossresError(f"input_size {input_size} is not a number of pixels; give 1 or more, or None")
        self.classes = tuple(classes)
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise CrossresError(f"the class name '{twice}' is given twice; class names must differ")
        self.input_size = input_size
        self.architecture: dict[str, Any] = dict(architecture or {})
        self.info: dict[str, Any] = {}
        self.backbone = backbone
        self.projection = nn.Linear(embedding_dim, projection_dim) if projection_dim else None
        self.embedding_dim = projection_dim or embedding_dim
        self.classifier = nn.Linear(self.embedding_dim, len(self.classes)) if self.classes else None
        # Not persistent: they are configuration, kept in config.json, not weights.
        self.mean: Tensor = nn.Buffer(torch.tensor([*mean], dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.std: Tensor = nn.Buffer(torch.tensor([*std], dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self._captured: dict[str, Tensor] = {}
        self._hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize and normalise images (B, 3, h, w) in 0..1, of any floating point type.

        Returns:
            (B, 3, s, s) in the dtype of the encoder; the arithmetic is float32.

        Raises:
            CrossresError: another shape, or integers.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            given = f"{images.dtype} {tuple(images.shape)}"
            raise CrossresError(f"an encoder reads floating point images (B, 3, h, w) in 0..1, not {given}")
        x = images.float()
        size = self.input_size
        if size is not None and (x.shape[-2] != size or x.shape[-1] != size):
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
            # Bicubic interpolation overshoots at edges, beyond what any image holds.
            x = x.clamp(0, 1)
        return ((x - self.mean.float()) / self.std.float()).to(self.mean.dtype)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, h, w) in 0..1 -> embedding (B, d), logits (B, classes) or None, captured features."""
        embedding = self.backbone(self.preprocess(images))
        if self.projection is not None:
            embedding = self.projection(embedding)
        logits = None if self.classifier is None else self.classifier(embedding)
        features = dict(self._captured)
        # Emptied, so that no graph outlives its step and the encoder can be deep-copied.
        self._captured.clear()
        for path in self._hooks:
            if path not in features:
                raise CrossresError(f"the module '{path}' did not run, or did not return a tensor; capture another")
        # in the order of the call, which need not be the one in which they ran
        return Outputs(embedding, logits, {path: features[path] for path in self._hooks})

    def capture(self, *paths: str) -> None:
        """Return the outputs of these modules of the backbone in ``Outputs.features`` from now on.

        Replaces an earlier call; without paths nothing is captured any more. Call it before ``torch.compile`` or
        ``torch.export``, which do not see hooks that come later. A module that runs more than once gives its last
        output.

        Args:
            paths: module paths inside ``backbone``, such as ``"layer1"`` or ``"layer2.0"``.

        Raises:
            CrossresError: the backbone has no module of that path.
        """
        modules = {path: module for path, module in self.backbone.named_modules() if path}
        for path in paths:
            if path not in modules:
                raise CrossresError(f"the backbone has no module '{path}'{nearest(path, modules)}")
        for handle in self._hooks.values():
            handle.remove()
        self._captured.clear()
        # no bound method: a deep copy writes into its own store
        keep = partial(_keep, self._captured)
        self._hooks = {path: modules[path].register_forward_hook(partial(keep, path)) for path in paths}


def _keep(store: dict[str, Tensor], path: str, _module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
    if isinstance(output, Tensor):
        # Cloned, because the next module may work in place (`ReLU(inplace=True)`).
        store[path] = output.clone()


def check_name(name: str) -> None:
    """Raise CrossresError for a name that `build_encoder` does not know; it names the nearest one."""
    if name.startswith("timm:"):
        foreign.check_timm_name(name.removeprefix("timm:"))
    elif name.startswith(ONNX):
        if not Path(name.removeprefix(ONNX)).is_file():
            raise CrossresError(f"there is no ONNX file {name.removeprefix(ONNX)}")
    elif ":" in name:
        foreign.find_factory(name)
    elif name.lower() not in BACKBONES:
        timm = name.removeprefix("timm/")
        near = f"; did you mean 'timm:{timm}'?" if timm != name else nearest(name, BACKBONES)
        raise CrossresError(f"unknown model {name!r}{near}")


def build_encoder(
    name: str,
    *,
    classes: Sequence[str],
    input_size: int | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    embedding_dim: int | None = None,
    small_input: Literal["auto", "yes", "no"] = "auto",
    pretrained: bool = False,
) -> Encoder:
    """Build an encoder by name, with fresh weights.

    Args:
        name: a key of ``BACKBONES``; ``timm:NAME`` for any timm model; or ``package.module:callable`` for a
            factory of your own, called with ``num_classes`` if it takes that argument, whose final
            ``nn.Linear`` gives way to the encoder's classifier.
        classes: class names in the order of the logits; empty for an encoder without a classifier.
        input_size: side in pixels that the network reads; None to read images as they come.
        mean: per-channel mean; None for the network's own, or 0.5.
        std: per-channel standard deviation; None for the network's own, or 0.25.
        embedding_dim: width of a linear projection after the backbone; None keeps the backbone's width.
        small_input: timm models only: whether to adapt the stem to small images (see ``timm_backbone``).
        pretrained: timm models only: start from timm's published weights (downloads them).

    Raises:
        CrossresError: unknown name, a missing package, or a network that cannot read ``input_size``.
    """
    check_name(name)
    if name.startswith("timm:"):
        built = foreign.timm_backbone(name.removeprefix("timm:"), input_size, small_input, pretrained)
    elif pretrained:
        raise CrossresError(f"'{name}' has no published weights; pretrained is for timm:NAME")
    elif ":" in name:
        built = foreign.factory_backbone(name, len(classes), input_size)
    else:
        name = name.lower()  # the literature writes MobileNetV2
        network = BACKBONES[name]()
        width = getattr(network, "embedding_dim", None) or foreign.measure_embedding(network, input_size)
        built = foreign.Backbone(network, width, input_size)
    encoder = Encoder(
        built.network,
        embedding_dim=built.embedding_dim,
        classes=classes,
        input_size=built.input_size,
        mean=mean or built.mean or MEAN,
        std=std or built.std or STD,
        # `pretrained` is left out on purpose: weights are loaded over a rebuilt network.
        architecture={"name": name, "embedding_dim": embedding_dim, **built.facts},
        projection_dim=embedding_dim,
    )
    final = built.classifier
    if final is not None and embedding_dim is None and final.out_features == len(classes):
        encoder.classifier = final  # The factory may have loaded weights.
    return encoder


def wrap(
    module: nn.Module,
    *,
    classes: Sequence[str],
    input_size: int | None,
    classifier: str | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Encoder:
    """Make an encoder of a network that you already have; its weights are copied, it is left as it was.

    With ``classes``, the linear layer at the module's output becomes ``Encoder.classifier``, weights and
    all, so the logits stay the same. A module without such a layer is taken as an embedding network, and
    a fresh classifier is put on it. With no classes, the whole module is the embedding network, unless
    ``classifier`` names a layer to cut off.

    Args:
        module: normalised images (B, 3, h, w) -> logits or embedding (B, n).
        classes: class names in the order of the module's logits.
        input_size: side in pixels that the module reads; None to read images as they come.
        classifier: path of the final ``nn.Linear``; None finds it.
        mean: per-channel mean that the module expects, for images in 0..1.
        std: per-channel standard deviation that it expects.

    Raises:
        CrossresError: no such layer, another number of classes, or the module cannot read ``input_size``.
    """
    if not isinstance(module, nn.Module):
        raise CrossresError(f"wrap takes a torch.nn.Module, not {type(module).__name__}")
    cut = foreign.cut_classifier(module, classifier, input_size, search=bool(classes))
    final, count = cut.classifier, len(classes)
    if final is None and classes and cut.embedding_dim == count:
        raise CrossresError(
            f"the module returns {count} outputs, one for each class, but not from a final nn.Linear: end it "
            f"with one, or pass classes=() to take the outputs as an embedding"
        )
    if final is not None and classes and final.out_features != count:
        raise CrossresError(
            f"the module's layer '{cut.facts['classifier']}' returns {final.out_features} outputs, but "
            f"{count} classes are named; name as many, or pass classes=() for an embedding network"
        )
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    encoder = Encoder(
        cut.network,
        embedding_dim=cut.embedding_dim,
        classes=classes,
        input_size=input_size,
        mean=mean,
        std=std,
        architecture={"name": "wrapped", "module": kind, **cut.facts},
    )
    if final is not None and classes:
        encoder.classifier = final
    return encoder.train(module.training)
