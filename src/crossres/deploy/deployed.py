"""The network as it is deployed: photos of any size in, answers out; what torch runs and what every export holds."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crossres.core.types import Float32s, Pixels
from crossres.data.degrade import resampling_weights, resize_matrix
from crossres.evaluation.facts import Facts, facts_of
from crossres.models.encoder import Encoder
from crossres.models.onnx_encoder import OnnxBackbone
from crossres.models.onnx_input import OnnxInput
from crossres.models.teachers import read_teacher
from crossres.models.weights import weights_sha256


class Deployed(nn.Module):
    """Preprocessing + encoder (in eval mode) + classifier + quality, as one graph; float32 out of a float16 one, too.

    A photo is brought to the LR size in one resampling step with the training's kernel, antialiased, or enlarged by
    bicubic interpolation, and rounded to 8 bits as a stored LR image is.
    """

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.facts = facts
        side = encoder.input_size
        enlarges = side is not None and side != facts.side
        # as the encoder enlarges: the same bicubic weights, as a matrix that any runtime multiplies alike
        self.register_buffer("enlarging", resize_matrix(facts.side, side or 1, "bicubic") if enlarges else None)

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Photos uint8 (B, H, W, 3), RGB -> embedding (B, d), logits and probabilities (B, classes), quality (B,).

        Quality is the highest probability, or the embedding's length where there are no classes: networks give
        images they can make nothing of a short one (Meng et al., MagFace, 2021).
        """
        outputs = self.encoder(self.read(photos))
        embedding = outputs.embedding.float()
        if outputs.logits is None:
            return embedding, embedding.norm(dim=1)
        probabilities = outputs.logits.float().softmax(1)
        return embedding, outputs.logits.float(), probabilities, probabilities.amax(1)

    def read(self, photos: Tensor) -> Tensor:
        """Photos uint8 (B, H, W, 3) -> what the encoder gets, float32 (B, 3, s, s) in 0..1."""
        rows, columns = self._matrices(photos)
        images = photos.permute(0, 3, 1, 2).float() / 255
        small = rows @ images @ columns.transpose(0, 1)
        small = (small.clamp(0, 1) * 255).round() / 255
        if isinstance(self.enlarging, Tensor):
            small = (self.enlarging @ small @ self.enlarging.transpose(0, 1)).clamp(0, 1)
        return small

    def _matrices(self, photos: Tensor) -> list[Tensor]:
        """Return the matrices that resample rows and columns, (s, H) and (s, W)."""
        side, fit, kernel = self.facts.side, self.facts.fit, self.facts.kernel
        pixels = [torch.arange(photos.shape[axis], device=photos.device).double() for axis in (1, 2)]
        # tensors, so that an exported graph takes any size
        lengths = [pixel[-1] + 1 for pixel in pixels]
        short, long = torch.minimum(*lengths), torch.maximum(*lengths)
        whole, zero = torch.full_like(short, side), torch.zeros_like(short)
        matrices = []
        for pixel, length in zip(pixels, lengths, strict=True):
            if fit == "crop":
                window = (length - short) / 2, short, zero, whole
            elif fit == "squash":
                window = zero, length, zero, whole
            else:
                inner = (length * whole / long).round().clamp(min=1)
                window = zero, length, ((whole - inner) / 2).floor(), inner
            matrices.append(resampling(pixel, *window, side, kernel))
        return matrices


def resampling(
    pixel: Tensor, start: Tensor, length: Tensor, offset: Tensor, inner: Tensor, side: int, kernel: str
) -> Tensor:
    """Return the matrix (side, n) that resamples a part of an axis to a part of the result; the rest of it is 0.

    The weights are those of `crossres.data.degrade.resize_matrix` (Pillow's ``Image.resize`` with a box), made of
    tensors so that the axis, ``pixel`` 0 to n - 1, float64 (n,), may have any length in an exported graph. Its part
    has a ``start`` and a ``length``, that of the result an ``offset`` and the length ``inner``, all in pixels and
    scalars of float64. It is shrunk by the kernel and enlarged by bicubic interpolation.
    """
    number = torch.arange(side, device=pixel.device).double() - offset
    inside = (number >= 0) & (number < inner)
    scale = length / inner
    widen = scale.clamp(min=1)
    centre = start + (number + 0.5) * scale
    weights = resampling_weights(pixel, centre, widen, "bicubic")
    if kernel == "nearest":
        nearest = ((centre[:, None] >= pixel) & (centre[:, None] < pixel + 1)).double()
        weights = torch.where(scale > 1, nearest, weights)
    elif kernel != "bicubic":
        weights = torch.where(scale > 1, resampling_weights(pixel, centre, widen, kernel), weights)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.where(inside[:, None], weights, torch.zeros_like(weights)).float()


def deploy(encoder: Encoder) -> Deployed:
    """Return an encoder between its training's preprocessing and its answers; CrossresError where it has no sizes."""
    # so that a folder and its export are known for one model
    info = {**encoder.info, "weights_sha256": weights_sha256(encoder)}
    facts = facts_of(info, encoder.classes, encoder.embedding_dim, encoder.input_size)
    return Deployed(encoder, facts).eval().requires_grad_(False)


def multiply_adds(network: nn.Module, images: Tensor) -> int:
    """Return how many multiply-adds a network makes in convolutions and matrix products of these images."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    # the counter takes a multiplication and an addition for two operations
    return int(counter.get_total_flops()) // 2


def costs_of(network: Deployed) -> dict[str, int]:
    """Return parameters, and multiply_adds of one image of the network's own size."""
    side = network.facts.side
    parameters = sum(p.numel() for p in network.parameters())
    image = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    return {"parameters": parameters, "multiply_adds": multiply_adds(network, image)}


class TorchEngine:
    """Runs a run's or model's folder, a model of the Hub, or an ONNX file that ``crossres export`` did not write.

    Its arguments and errors are those of `crossres.models.teachers.read_teacher`; an ONNX file is taken for a face
    model.
    """

    def __init__(self, path: str | Path, *, trust_code: bool = False, onnx_input: OnnxInput | None = None) -> None:
        encoder = read_teacher(str(path), onnx_input or OnnxInput(), trust_code=trust_code)
        if isinstance(encoder.backbone, OnnxBackbone):
            encoder.info = {"task": "faces", **encoder.info}
        self.network = deploy(encoder)
        self.facts = self.network.facts
        self.digest = str(self.facts.about["weights_sha256"])

    def run(self, photos: Pixels) -> dict[str, Float32s]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        with torch.inference_mode():
            outputs = self.network(torch.from_numpy(photos))
        return {name: value.numpy() for name, value in zip(self.facts.outputs, outputs, strict=True)}
