"""An ONNX file as a frozen encoder: a teacher that onnxruntime runs, on the CPU."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError, library_errors
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.onnx_session import onnx_sha256, open_session

#: types of input that images can be converted to
INPUT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


class OnnxBackbone(nn.Module):
    """Runs an ONNX file: normalised images (B, 3, s, s) -> embedding (B, d).

    A file with a fixed batch gets that many images at a time; the last batch is filled up with zeros. Of what the
    file ``expects``, colours and layout are arranged here; size and normalisation are the encoder's.
    """

    digest: Tensor

    def __init__(self, path: str | Path, expects: OnnxInput) -> None:
        super().__init__()
        self.path = Path(path)
        self.expects = expects
        # the file's weights are not parameters: its digest stands for them in `weights_sha256`
        self.register_buffer("digest", torch.frombuffer(bytearray(onnx_sha256(self.path)), dtype=torch.uint8))
        self.session = open_session(self.path, torch.get_num_threads())
        inputs, outputs = self.session.get_inputs(), [output.name for output in self.session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(f"{entry.name} {entry.shape}" for entry in inputs)
            raise CrossresError(f"{path}: reads {shapes}; expected one input of four dimensions, a batch of images")
        if expects.output is not None and expects.output not in outputs:
            raise CrossresError(f"{path}: has no output '{expects.output}'; its outputs are {', '.join(outputs)}")
        if inputs[0].type not in INPUT_TYPES:
            raise CrossresError(f"{path}: reads {inputs[0].type}; expected {', '.join(INPUT_TYPES)}")
        self.dtype = INPUT_TYPES[inputs[0].type]
        self.input_name = inputs[0].name
        self.output_name = expects.output or outputs[0]
        batch, *rest = inputs[0].shape
        self.batch = batch if isinstance(batch, int) and batch > 0 else None
        nchw = expects.layout == "nchw"
        channels, other, sides = (rest[0], rest[2], rest[1:]) if nchw else (rest[2], rest[0], rest[:2])
        # where sizes are free, a 3 in the place of the other layout's channels shows the mistake
        if channels != 3 if isinstance(channels, int) else other == 3:
            raise CrossresError(f"{path}: reads {inputs[0].shape}, which is not {expects.layout} with 3 channels")
        fixed = {size for size in sides if isinstance(size, int) and size > 0}
        self.size = fixed.pop() if len(fixed) == 1 else None
        if self.batch is None and not self._takes_two(expects.size or self.size):
            self.batch = 1

    def _takes_two(self, size: int | None) -> bool:
        """Return whether a batch that is declared free is: some files fix it inside."""
        try:
            return size is None or len(self(torch.zeros(2, 3, size, size))) == 2
        except Exception:  # onnxruntime has a class of its own for each of its errors
            return False

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxBackbone:
        # a session cannot be copied, and nothing in it changes
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = arranged(images.detach().float().cpu(), self.expects)
        embeddings = []
        for part in torch.split(x, self.batch or len(x)):
            filled = part
            if self.batch and len(part) < self.batch:
                filled = torch.cat([part, part.new_zeros(self.batch - len(part), *part.shape[1:])])
            if self.dtype is np.uint8:
                filled = filled.round().clamp(0, 255)
            values = filled.contiguous().numpy().astype(self.dtype, copy=False)
            (output,) = self.session.run([self.output_name], {self.input_name: values})
            embeddings.append(torch.from_numpy(output[: len(part)]).float().flatten(1))
        return torch.cat(embeddings).to(images.device)


def arranged(images: Tensor, expects: OnnxInput) -> Tensor:
    """Return RGB images (B, 3, h, w) with the colours and the layout that a file expects."""
    x = images.flip(1) if expects.colours == "bgr" else images
    return x.permute(0, 2, 3, 1) if expects.layout == "nhwc" else x


def onnx_encoder(path: str | Path, onnx_input: OnnxInput) -> Encoder:
    """Make a frozen encoder of an ONNX file, which expects ``onnx_input``.

    Raises:
        CrossresError: no onnxruntime, no such file, a file that onnxruntime cannot read or that does not read images,
            or no size where the file leaves it open.
    """
    if min(onnx_input.std) <= 0 or onnx_input.highest <= 0:
        raise CrossresError(f"{path}: std and highest should be above 0")
    backbone = OnnxBackbone(path, onnx_input)
    size = onnx_input.size or backbone.size
    if size is None:
        raise CrossresError(f"{path}: reads images of any size; give the side that it was trained at (size)")
    if backbone.size not in (None, size):
        raise CrossresError(f"{path}: reads images of side {backbone.size}, not {size}")
    with torch.no_grad(), library_errors(f"{path}: cannot read images of side {size}"):
        width = backbone(torch.zeros(1, 3, size, size)).shape[1]
    declared = {f"onnx_{name}": value for name, value in asdict(onnx_input).items()}
    encoder = Encoder(
        backbone,
        embedding_dim=width,
        classes=(),
        input_size=size,
        # (highest * x - mean) / std for x in 0..1
        mean=[value / onnx_input.highest for value in onnx_input.mean],
        std=[value / onnx_input.highest for value in onnx_input.std],
        architecture={"name": "onnx", "file": Path(path).name, **declared},
    )
    return encoder.eval().requires_grad_(False)
