"""Teachers: encoders that are frozen and matched to the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.onnx_teacher import onnx_encoder
from crossres.models.pretrained import from_pretrained
from crossres.models.stored import is_stored, stored_encoder


def read_teacher(path: str, wanted: OnnxInput, *, trust_code: bool = False) -> Encoder:
    """Read a teacher: a saved model, an ONNX file or stored embeddings, by its name or what its folder holds.

    Raises:
        CrossresError: as `from_pretrained`, `onnx_encoder` and `stored_encoder`.
    """
    if Path(path).suffix.lower() == ".onnx":
        return onnx_encoder(path, wanted)
    if is_stored(path):
        return stored_encoder(path)
    return from_pretrained(path, trust_code=trust_code)


def frozen_teacher(teacher: Encoder, classes: Sequence[str], where: str, *, may_know_more: bool = False) -> Encoder:
    """Return a copy of a teacher: eval mode, no gradients, logits in the order of the data's classes.

    Args:
        teacher: trained.
        classes: the student's class names in the order of the data's labels; none where it has no classifier: then
            the teacher's is dropped, whatever it knows. A teacher without one, which teaches by its embedding alone,
            fits any.
        where: names it in a message.
        may_know_more: leave out the logits of classes that the data does not have, instead of refusing them.

    Raises:
        CrossresError: the teacher knows other classes.
    """
    teacher = deepcopy(teacher)
    if not classes:
        teacher.classes, teacher.classifier = (), None
    elif teacher.classes:
        order_classes(teacher, classes, where, may_know_more=may_know_more)
    return teacher.eval().requires_grad_(False)


def order_classes(encoder: Encoder, classes: Sequence[str], where: str, *, may_know_more: bool = False) -> None:
    """Reorder the classifier's rows to the given class names; drop those of others where it may know more.

    Raises:
        CrossresError: the names are not the same set; says how many there are and which differs first.
    """
    if encoder.classes == tuple(classes):
        return
    known, wanted = set(encoder.classes), set(classes)
    if may_know_more:
        known &= wanted
    if known != wanted or len(classes) != len(known):
        extra = next((name for name in classes if name not in known), None)
        lacking = next((name for name in encoder.classes if name in known - wanted), None)
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
    chosen = nn.Linear(classifier.in_features, len(rows), bias=classifier.bias is not None)
    chosen.weight = nn.Parameter(classifier.weight.detach()[rows.to(classifier.weight.device)])
    if classifier.bias is not None:
        chosen.bias = nn.Parameter(classifier.bias.detach()[rows.to(classifier.bias.device)])
    encoder.classifier = chosen
    encoder.classes = tuple(classes)
