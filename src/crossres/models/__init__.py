"""Encoders: backbones for native low resolution, teachers, saving and loading."""

from crossres.models.backbones import BACKBONES
from crossres.models.encoder import Encoder, build_encoder, wrap
from crossres.models.pretrained import from_pretrained, push_to_hub, save_pretrained
from crossres.models.teachers import frozen_teacher
from crossres.models.weights import load_weights, weights_sha256

__all__ = [
    "BACKBONES",
    "Encoder",
    "build_encoder",
    "from_pretrained",
    "frozen_teacher",
    "load_weights",
    "push_to_hub",
    "save_pretrained",
    "weights_sha256",
    "wrap",
]
