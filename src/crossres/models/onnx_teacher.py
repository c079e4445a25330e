"""An ONNX file as a frozen encoder: a teacher whose inside nobody needs to know."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.onnx_session import onnx_sha256, open_session

#: Inputs that images are brought to.
KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


class OnnxBackbone(nn.Module):
    """Runs an ONNX file with onnxruntime, on the CPU: normalised images (B, 3, s, s) -> embedding (B, d).

    A file with a fixed batch is asked that many images at a time, the last ones filled up with zeros.

    Args:
        path: of the file.
        wanted: layout, colours and output; normalisation is the encoder's.
    """

    digest: Tensor

    def __init__(self, path: str | Path, wanted: OnnxInput) -> None:
        super().__init__()
        self.path = Path(path)
        self.wanted = wanted
        # its weights are no parameters: the digest stands for them wherever a network is told from another
        self.register_buffer("digest", torch.frombuffer(bytearray(onnx_sha256(self.path)), dtype=torch.uint8))
        self.session = open_session(self.path, torch.get_num_threads())
        inputs, outputs = self.session.get_inputs(), [output.name for output in self.session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(f"{given.name} {given.shape}" for given in inputs)
            raise CrossresError(f"{path}: reads {shapes}; expected one input of four dimensions, a batch of images")
        if wanted.output is not None and wanted.output not in outputs:
            raise CrossresError(f"{path}: has no output '{wanted.output}'; its outputs are {', '.join(outputs)}")
        if inputs[0].type not in KINDS:
            raise CrossresError(f"{path}: reads {inputs[0].type}; expected {', '.join(KINDS)}")
        self.kind = KINDS[inputs[0].type]
        self.input_name = inputs[0].name
        self.output_name = wanted.output or outputs[0]
        batch, *rest = inputs[0].shape
        self.batch = batch if isinstance(batch, int) and batch > 0 else None
        channels, side = (rest[0], rest[1:]) if wanted.layout == "nchw" else (rest[2], rest[:2])
        # of free sizes, a 3 in the place of the other layout's channels tells
        swapped = not isinstance(channels, int) and (rest[2] if wanted.layout == "nchw" else rest[0]) == 3
        if swapped or (isinstance(channels, int) and channels != 3):
            raise CrossresError(f"{path}: reads {inputs[0].shape}, which is not {wanted.layout} with 3 channels")
        fixed = {size for size in side if isinstance(size, int) and size > 0}
        self.size = fixed.pop() if len(fixed) == 1 else None
        read = wanted.size or self.size
        if self.batch is None and read is not None and not self._takes_two(read):
            self.batch = 1

    def _takes_two(self, size: int) -> bool:
        """Whether a batch that is declared free is: some files fix it inside."""
        try:
            said = self(torch.zeros(2, 3, size, size))
        except Exception:  # onnxruntime has a class of its own for each of its errors
            return False
        return len(said) == 2

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxBackbone:
        # a session cannot be copied, and nothing in it changes
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = images.detach().float().cpu()
        if self.wanted.colours == "bgr":
            x = x.flip(1)
        if self.wanted.layout == "nhwc":
            x = x.permute(0, 2, 3, 1)
        parts = []
        for part in torch.split(x, self.batch or len(x)):
            filled = part
            if self.batch and len(part) < self.batch:
                filled = torch.cat([part, part.new_zeros(self.batch - len(part), *part.shape[1:])])
            if self.kind is np.uint8:
                filled = filled.round().clamp(0, 255)
            values = filled.contiguous().numpy().astype(self.kind, copy=False)
            (said,) = self.session.run([self.output_name], {self.input_name: values})
            parts.append(torch.from_numpy(said[: len(part)]).float().flatten(1))
        return torch.cat(parts).to(images.device)


def onnx_encoder(path: str | Path, wanted: OnnxInput) -> Encoder:
    """Make a frozen encoder of an ONNX file.

    Args:
        path: of the file.
        wanted: what it expects of its input.

    Raises:
        CrossresError: no onnxruntime, no such file, a file that onnxruntime cannot read or that does not read images,
            or no size where the file leaves it open.
    """
    if min(wanted.std) <= 0 or wanted.highest <= 0:
        raise CrossresError(f"{path}: std and highest should be above 0")
    backbone = OnnxBackbone(path, wanted)
    size = wanted.size or backbone.size
    if size is None:
        raise CrossresError(f"{path}: reads images of any size; say which side it was trained at (size)")
    if backbone.size not in (None, size):
        raise CrossresError(f"{path}: reads images of side {backbone.size}, not {size}")
    with torch.no_grad():
        try:
            width = backbone(torch.zeros(1, 3, size, size)).shape[1]
        except Exception as error:
            why = " ".join(str(error).split())[:160]
            raise CrossresError(f"{path}: cannot read images of side {size} ({why})") from None
    # (highest * x - mean) / std for x in 0..1
    mean = [value / wanted.highest for value in wanted.mean]
    std = [value / wanted.highest for value in wanted.std]
    architecture = {"name": "onnx", "file": Path(path).name, **{f"onnx_{k}": v for k, v in asdict(wanted).items()}}
    encoder = Encoder(
        backbone, embedding_dim=width, classes=(), input_size=size, mean=mean, std=std, architecture=architecture
    )
    return encoder.eval().requires_grad_(False)
