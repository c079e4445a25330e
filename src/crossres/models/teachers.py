"""Teachers: encoders that are frozen and matched to the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from crossres.errors import CrossresError
from crossres.models.encoder import Encoder


def frozen_teacher(teacher: Encoder, classes: Sequence[str], where: str) -> Encoder:
    """Return a copy of a teacher: eval mode, no gradients, logits in the order of the data's classes.

    Args:
        teacher: trained.
        classes: the data's class names in the order of its labels. A teacher without a classifier, which
            teaches by its embedding alone, fits any.
        where: names it in a message.

    Raises:
        CrossresError: the teacher knows other classes.
    """
    teacher = deepcopy(teacher)
    if teacher.classes:
        order_classes(teacher, classes, where)
    return teacher.eval().requires_grad_(False)


def order_classes(encoder: Encoder, classes: Sequence[str], where: str) -> None:
    """Reorder the classifier's rows to the given class names.

    Raises:
        CrossresError: the names are not the same set; says how many there are and which differs first.
    """
    if encoder.classes == tuple(classes):
        return
    known, wanted = set(encoder.classes), set(classes)
    if known != wanted or len(classes) != len(encoder.classes):
        extra = next((name for name in classes if name not in known), None)
        lacking = next((name for name in encoder.classes if name not in wanted), None)
        first = (
            f"the data's '{extra}' is unknown to it"
            if extra is not None
            else f"its '{lacking}' is not in the data"
            if lacking is not None
            else "the data names a class twice"
        )
        raise CrossresError(f"{where} knows {len(encoder.classes)} classes, the data has {len(classes)}: {first}")
    rows = torch.tensor([encoder.classes.index(name) for name in classes])
    classifier = encoder.classifier
    assert classifier is not None
    with torch.no_grad():
        classifier.weight.copy_(classifier.weight[rows.to(classifier.weight.device)])
        if classifier.bias is not None:
            classifier.bias.copy_(classifier.bias[rows.to(classifier.bias.device)])
    encoder.classes = tuple(classes)
