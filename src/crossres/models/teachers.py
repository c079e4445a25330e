"""Teachers: encoders that are frozen and matched to the classes of the data."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import Encoder
from crossres.models.onnx_encoder import onnx_encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained
from crossres.models.stored import is_stored, stored_encoder


def read_teacher(path: str, onnx_input: OnnxInput, *, trust_code: bool = False) -> Encoder:
    """Read a teacher with `onnx_encoder`, `stored_encoder` or `from_pretrained`, by the path's ending."""
    if Path(path).suffix.lower() == ".onnx":
        return onnx_encoder(path, onnx_input)
    if is_stored(path):
        return stored_encoder(path)
    return from_pretrained(path, trust_code=trust_code)


def frozen_teacher(teacher: Encoder, classes: Sequence[str], where: str, *, may_know_more: bool = False) -> Encoder:
    """Return a copy of a teacher: eval mode, no gradients, logits in the order of the data's classes.

    ``classes`` are the student's, in the order of the data's labels. Without any the teacher's classifier is dropped;
    a teacher without a classifier fits any. ``where`` names the teacher in a message.

    Raises:
        CrossresError: the teacher knows other classes; with ``may_know_more`` only if it lacks some of the data's.
    """
    teacher = deepcopy(teacher)
    if not classes:
        teacher.classes, teacher.classifier = (), None
    elif teacher.classes:
        order_classes(teacher, classes, where, may_know_more=may_know_more)
    return teacher.eval().requires_grad_(False)


def order_classes(encoder: Encoder, classes: Sequence[str], where: str, *, may_know_more: bool = False) -> None:
    """Reorder the classifier's rows to the class names; drop those of other classes if ``may_know_more``.

    Raises:
        CrossresError: the names are not the same set.
    """
    if encoder.classes == tuple(classes):
        return
    known, requested = set(encoder.classes), set(classes)
    reasons = [f"the data's '{name}' is unknown to it" for name in classes if name not in known]
    if not may_know_more:
        reasons += [f"its '{name}' is not in the data" for name in encoder.classes if name not in requested]
    if len(requested) < len(classes):
        reasons.append("the data names a class twice")
    if reasons:
        count = len(encoder.classes)
        raise CrossresError(f"{where} knows {count} classes, the data has {len(classes)}: {reasons[0]}")
    rows = torch.tensor([encoder.classes.index(name) for name in classes])
    classifier = encoder.classifier
    assert classifier is not None
    chosen = nn.Linear(classifier.in_features, len(rows), bias=classifier.bias is not None)
    for name, value in list(classifier.named_parameters()):
        setattr(chosen, name, nn.Parameter(value.detach()[rows.to(value.device)]))
    encoder.classifier = chosen
    encoder.classes = tuple(classes)
