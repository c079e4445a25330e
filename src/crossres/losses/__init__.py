"""The distillation losses, a method a file, all called as ``loss(teacher, student, label, index)``.

A new one: a file with a :class:`Loss`, a line in :data:`LOSSES`, a test.
"""

from __future__ import annotations

from crossres.losses.base import Loss
from crossres.losses.ce import CE
from crossres.losses.crd import CRD
from crossres.losses.crrcd import CRRCD
from crossres.losses.kd import KD

LOSSES: dict[str, type[Loss]] = {"ce": CE, "kd": KD, "crd": CRD, "crrcd": CRRCD}

__all__ = ["CE", "CRD", "CRRCD", "KD", "LOSSES", "Loss"]
