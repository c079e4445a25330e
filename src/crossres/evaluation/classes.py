"""The classes of images as an encoder counts them."""

import torch
from torch import Tensor

from crossres.core.errors import CrossresError, composed
from crossres.data.images import ImageSet
from crossres.models.encoder import Encoder


def labels_of(encoder: Encoder, images: ImageSet) -> Tensor:
    """Return the encoder's class of each image, (N,).

    Raises:
        CrossresError: a class that the encoder does not know, or an encoder without classes.
    """
    if not encoder.classes:
        raise CrossresError("the model names no classes; judge its embeddings: crossres faces evaluate, or transfer")
    known = list(map(composed, encoder.classes))
    unknown = [name for name in images.classes if name not in known]
    if unknown:
        raise CrossresError(
            f"{images.name}: class '{unknown[0]}' is unknown to the model ({len(unknown)} of {len(images.classes)} "
            f"classes are); it knows {', '.join(encoder.classes[:5])}{'...' if len(encoder.classes) > 5 else ''}"
        )
    return torch.tensor([known.index(name) for name in images.classes])[torch.from_numpy(images.labels)]
