"""What every judgement of an encoder begins with: the sizes it was trained at, and its embeddings of a set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.core.errors import CrossresError
from crossres.data.loader import Loader
from crossres.models.encoder import Encoder


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


def embed(
    encoder: Encoder,
    loader: Loader,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch_size: int = 250,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> npt.NDArray[np.float32]:
    """Return the embedding of every image at its low resolution, float32 (N, d), in the loader's order.

    ``progress`` is told how many images are done, of how many.
    """
    training = encoder.training
    encoder.eval()
    parts: list[torch.Tensor] = []
    for batch in loader.ordered(batch_size=batch_size):
        with torch.inference_mode(), autocast():
            parts.append(encoder(batch.lr).embedding.float().cpu())
        progress(min(len(parts) * batch_size, len(loader.images)), len(loader.images))
    encoder.train(training)
    return torch.cat(parts).numpy()
