"""The distillation losses, a method a file, all called as ``loss(teacher, student, label, index)``.

A new one: a file with a :class:`Loss`, a line in :data:`LOSSES`, a test.
"""

from __future__ import annotations

from crossres.losses.base import Loss
from crossres.losses.cc import CC
from crossres.losses.ce import CE
from crossres.losses.crd import CRD
from crossres.losses.crrcd import CRRCD
from crossres.losses.dist import DIST
from crossres.losses.dkd import DKD
from crossres.losses.kd import KD
from crossres.losses.pkt import PKT
from crossres.losses.rkd import RKD

LOSSES: dict[str, type[Loss]] = {
    "ce": CE,
    "kd": KD,
    "dkd": DKD,
    "dist": DIST,
    "rkd": RKD,
    "pkt": PKT,
    "cc": CC,
    "crd": CRD,
    "crrcd": CRRCD,
}

__all__ = ["CC", "CE", "CRD", "CRRCD", "DIST", "DKD", "KD", "LOSSES", "PKT", "RKD", "Loss"]
