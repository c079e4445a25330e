"""The distillation losses, a method a file, all called as ``loss(teacher, student, label, index)``.

A new one: a file with a :class:`Loss`, a line in :data:`LOSSES`, a test.
"""

from __future__ import annotations

from crossres.losses.ab import AB
from crossres.losses.adaface import AdaFace
from crossres.losses.arcface import ArcFace
from crossres.losses.askd import ASKD
from crossres.losses.at import AT
from crossres.losses.base import Loss
from crossres.losses.cc import CC
from crossres.losses.ce import CE
from crossres.losses.cosface import CosFace
from crossres.losses.cosine import Cosine
from crossres.losses.crcd import CRCD, CRCDGradient
from crossres.losses.crd import CRD
from crossres.losses.crrcd import CRRCD
from crossres.losses.dist import DIST
from crossres.losses.dkd import DKD
from crossres.losses.fitnet import FitNet
from crossres.losses.fskd import FSKD
from crossres.losses.fsp import FSP
from crossres.losses.ft import FT
from crossres.losses.horkd import HORKD
from crossres.losses.kd import KD
from crossres.losses.maps import MapLoss
from crossres.losses.nst import NST
from crossres.losses.octuplet import Octuplet
from crossres.losses.pkt import PKT
from crossres.losses.review import ReviewKD
from crossres.losses.rkd import RKD
from crossres.losses.similarity import Similarity
from crossres.losses.sp import SP
from crossres.losses.vid import VID

LOSSES: dict[str, type[Loss]] = {
    "ce": CE,
    "cosface": CosFace,
    "arcface": ArcFace,
    "adaface": AdaFace,
    "kd": KD,
    "dkd": DKD,
    "dist": DIST,
    "cosine": Cosine,
    "similarity": Similarity,
    "rkd": RKD,
    "pkt": PKT,
    "cc": CC,
    "fitnet": FitNet,
    "at": AT,
    "sp": SP,
    "nst": NST,
    "vid": VID,
    "ab": AB,
    "ft": FT,
    "fsp": FSP,
    "review": ReviewKD,
    "askd": ASKD,
    "fskd": FSKD,
    "horkd": HORKD,
    "octuplet": Octuplet,
    "crd": CRD,
    "crcd": CRCD,
    "crcd_gradient": CRCDGradient,
    "crrcd": CRRCD,
}

__all__ = [
    "AB",
    "ASKD",
    "AT",
    "CC",
    "CE",
    "CRCD",
    "CRD",
    "CRRCD",
    "DIST",
    "DKD",
    "FSKD",
    "FSP",
    "FT",
    "HORKD",
    "KD",
    "LOSSES",
    "NST",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "AdaFace",
    "ArcFace",
    "CRCDGradient",
    "CosFace",
    "Cosine",
    "FitNet",
    "Loss",
    "MapLoss",
    "Octuplet",
    "ReviewKD",
    "Similarity",
]
