"""What an encoder was trained to read, and its outputs on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from crossres.core.errors import CrossresError
from crossres.core.types import Float32s, Outputs
from crossres.data.loader import Loader
from crossres.models.encoder import Encoder

#: Images per forward pass of an evaluation.
BATCH = 250

Autocast = Callable[[], AbstractContextManager[Any]]


def sizes_of(encoder: Encoder) -> tuple[int, int, int]:
    """Return the HR size of an encoder's training and the smallest and largest LR size, in pixels.

    Raises:
        CrossresError: the model does not say its HR size.
    """
    hr_size = int(encoder.info.get("hr_size") or encoder.input_size or 0)
    if not hr_size:
        raise CrossresError("the model does not say its hr_size; save it with info={'hr_size': ...}")
    trained: Any = encoder.info.get("lr_size") or encoder.input_size or hr_size
    low, high = (trained, trained) if isinstance(trained, int) else trained
    return hr_size, int(low), int(high)


def batch_outputs(
    encoder: Encoder, loader: Loader, autocast: Autocast = nullcontext, batch_size: int = BATCH
) -> Iterator[Outputs]:
    """Yield the outputs of each batch at low resolution, in eval mode; the encoder's mode comes back at the end."""
    training = encoder.training
    encoder.eval()
    try:
        for batch in loader.ordered(batch_size=batch_size):
            with torch.inference_mode(), autocast():
                outputs: Outputs = encoder(batch.lr)
            yield outputs
    finally:
        encoder.train(training)


def predict(encoder: Encoder, loader: Loader, autocast: Autocast = nullcontext, batch_size: int = BATCH) -> Tensor:
    """Return the logits of every image at its low resolution, float32 (N, classes), in the loader's order."""
    parts: list[Tensor] = []
    for outputs in batch_outputs(encoder, loader, autocast, batch_size):
        assert outputs.logits is not None, "an encoder without a classifier"
        parts.append(outputs.logits.float())
    return torch.cat(parts)


def embed(
    encoder: Encoder,
    loader: Loader,
    autocast: Autocast = nullcontext,
    batch_size: int = BATCH,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Float32s:
    """Return the embedding of every image at its low resolution, float32 (N, d), in the loader's order.

    ``progress`` is called with the number of images done and of all.
    """
    parts: list[Tensor] = []
    for outputs in batch_outputs(encoder, loader, autocast, batch_size):
        parts.append(outputs.embedding.float().cpu())
        progress(min(len(parts) * batch_size, len(loader.images)), len(loader.images))
    embeddings: Float32s = torch.cat(parts).numpy()
    return embeddings
