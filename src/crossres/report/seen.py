"""What networks say of images, and the images as they saw them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from crossres.core.devices import Device
from crossres.data.degradation import Degradation
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.models.encoder import Encoder
from crossres.models.stored import stored_outputs
from crossres.report.content import Run, Sources, Teacher

#: Images asked at a time: as many as `evaluate` does, since noise is drawn by the batch.
BATCH = 250
#: Side that a picture is kept at, at most, and up to which every pixel is.
LARGEST, EXACT = 128, 64


@dataclass(frozen=True)
class Answers:
    """What a network says of every image: embeddings (N, d), and logits (N, C) where it has classes."""

    embedding: npt.NDArray[np.float32]
    logits: Tensor | None

    @property
    def sound(self) -> bool:
        """Whether the embeddings are numbers."""
        return bool(np.isfinite(self.embedding).all())


def student_answers(run: Run, images: ImageSet, sources: Sources) -> Answers:
    """Ask a run's student about images at its low resolution."""
    return _answers(run.student, _at_lr(run, images, sources), run.device)


def teacher_answers(run: Run, teacher: Teacher, images: ImageSet, sources: Sources) -> Answers:
    """Ask a teacher about images at high resolution, once for all runs.

    Raises:
        CrossresError: of stored embeddings that lack an image.
    """

    def ask() -> Answers:
        if teacher.stored:
            known = stored_outputs(teacher.encoder, images, run.device.torch)
            return Answers(known.embedding[0].cpu().numpy(), None)
        loader = sources.loader(run, images)
        loader.lr_size, loader.degradation = run.hr_size, Degradation(kernel=run.degradation.kernel)
        return _answers(teacher.encoder, loader, run.device)

    return sources.once(("said", id(teacher), id(images), run.device.precision), ask)


def _at_lr(run: Run, images: ImageSet, sources: Sources) -> Loader:
    loader = sources.loader(run, images)
    loader.lr_size, loader.degradation = run.lr_size, run.degradation
    return loader


def _answers(encoder: Encoder, loader: Loader, device: Device) -> Answers:
    embedding, logits = [], []
    for batch in loader.ordered(batch_size=BATCH):
        with torch.inference_mode(), device.autocast():
            said = encoder.eval()(batch.lr)
        embedding.append(said.embedding.float().cpu())
        if said.logits is not None:
            logits.append(said.logits.float().cpu())
    return Answers(torch.cat(embedding).numpy(), torch.cat(logits) if logits else None)


def pictures(
    run: Run, images: ImageSet, sources: Sources, positions: Sequence[int]
) -> dict[int, list[tuple[str, str]]]:
    """Return, by position, data URI and caption of an image at high resolution and as the student saw it."""
    wanted, found = set(positions), {}
    # from the start: an image's noise depends on where its batch begins
    for batch in _at_lr(run, images, sources).ordered(batch_size=BATCH, hr=True):
        assert batch.hr is not None
        for row, position in enumerate(batch.index.tolist()):
            if position in wanted:
                high, low = data_uri(batch.hr[row]), data_uri(batch.lr[row])
                found[position] = [(high, f"HR {run.at_hr}"), (low, f"LR {run.at_lr}")]
    return found


def data_uri(image: Tensor) -> str:
    """Return a picture (3, h, w) in 0..1 as a data URI: small ones pixel by pixel, larger ones as JPEG."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture, file = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if max(picture.size) <= EXACT else "jpeg"
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(file, format=kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
