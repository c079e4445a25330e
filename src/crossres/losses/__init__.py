"""The distillation losses, a method a file, all called as ``loss(teacher, student, label, index)``.

A new one: a file with a `Loss`, a line in `LOSSES`, a test. torch is imported when a loss is first used.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossres.losses.base import Loss


class Losses(UserDict[str, Any]):
    """The loss classes by name; a built-in one is imported at its first use, your own is put in as in a dict.

    ``data`` holds "file.Class" of this package, or the class that was put in.
    """

    def __getitem__(self, name: str) -> type[Loss]:
        home = self.data[name]
        loss: type[Loss] = _class(home) if isinstance(home, str) else home
        return loss


#: In the order of tables and pages.
LOSSES = Losses(
    {
        "ce": "ce.CE",
        "cosface": "cosface.CosFace",
        "arcface": "arcface.ArcFace",
        "adaface": "adaface.AdaFace",
        "kd": "kd.KD",
        "dkd": "dkd.DKD",
        "dist": "dist.DIST",
        "cosine": "cosine.Cosine",
        "similarity": "similarity.Similarity",
        "rkd": "rkd.RKD",
        "pkt": "pkt.PKT",
        "cc": "cc.CC",
        "fitnet": "fitnet.FitNet",
        "at": "at.AT",
        "sp": "sp.SP",
        "nst": "nst.NST",
        "vid": "vid.VID",
        "ab": "ab.AB",
        "ft": "ft.FT",
        "fsp": "fsp.FSP",
        "review": "review.ReviewKD",
        "askd": "askd.ASKD",
        "fskd": "fskd.FSKD",
        "horkd": "horkd.HORKD",
        "octuplet": "octuplet.Octuplet",
        "crd": "crd.CRD",
        "crcd": "crcd.CRCD",
        "crcd_gradient": "crcd.CRCDGradient",
        "crrcd_paper": "crrcd_paper.CRRCDPaper",
        "crrcd_images": "crrcd_images.CRRCDImages",
        "crrcd_maps": "crrcd_maps.CRRCDMaps",
    }
)
_HOMES = {home.split(".")[-1]: home for home in ("base.Loss", "maps.MapLoss", *LOSSES.data.values())}


def _class(home: str) -> Any:
    file, name = home.split(".")
    return getattr(import_module(f"{__name__}.{file}"), name)


def __getattr__(name: str) -> Any:
    """Import a class at its first use, as in ``from crossres.losses import CRD``."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _class(_HOMES[name])
