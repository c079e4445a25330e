"""What an ONNX network expects of its input."""

from dataclasses import dataclass
from typing import Literal

#: what the name of a trainable copy of an ONNX file begins with
ONNX = "onnx:"


@dataclass(frozen=True)
class OnnxInput:
    """What an ONNX network expects of its input; a file does not say it.

    Args:
        size: side in pixels; the file's own where that is fixed.
        highest: value of a white pixel before mean and std: 255, or 1.
        mean: subtracted from each channel, in units of ``highest``.
        std: each channel is divided by it.
        colours: order of the channels.
        layout: nchw or nhwc.
        output: name of the output that is the embedding; the first if left out.
    """

    size: int | None = None
    highest: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    colours: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    output: str | None = None
