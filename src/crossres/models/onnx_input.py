"""What an ONNX network expects of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crossres.core.errors import CrossresError, nearest

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


def read_onnx_input(text: str) -> OnnxInput:
    """Read ``highest=1,mean=0.5:0.5:0.5,colours=bgr``; three numbers are joined by colons.

    Raises:
        CrossresError: an unknown option or a value that it does not take, by name.
    """
    hints = get_type_hints(OnnxInput)
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in hints:
            raise CrossresError(f"ONNX input: unknown option '{name}'{nearest(name, list(hints))}")
        if get_origin(hints[name]) is Literal and value not in get_args(hints[name]):
            raise CrossresError(f"ONNX input: {name} is '{value}', expected {' or '.join(get_args(hints[name]))}")
        try:
            if name in ("mean", "std"):
                first, second, third = (float(word) for word in value.split(":"))
                given[name] = (first, second, third)
            else:
                given[name] = int(value) if name == "size" else float(value) if name == "highest" else value
        except ValueError:
            wanted = "three numbers as in 0.5:0.5:0.5" if name in ("mean", "std") else "a number"
            raise CrossresError(f"ONNX input: {name} is '{value}', expected {wanted}") from None
    return OnnxInput(**given)
