"""Which feature maps of two networks are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from crossres.core.errors import CrossresError
from crossres.losses.base import Shape
from crossres.models.encoder import Encoder


def stage_paths(encoder: Encoder) -> list[str]:
    """Return the module paths of the ends of a backbone's stages, from the first to the last.

    The networks of `BACKBONES` name them in ``stages``, those of timm in ``feature_info``.

    Raises:
        CrossresError: another network; its modules have to be named.
    """
    backbone = encoder.backbone
    own = getattr(backbone, "stages", None)
    if isinstance(own, tuple):
        return list(own)
    listed = getattr(backbone, "feature_info", None)
    modules = {path for path, _ in backbone.named_modules()}
    found = [str(info["module"]) for info in listed or () if info.get("module") in modules]
    if not found:
        name = encoder.architecture.get("name", "the network")
        if not modules - {""}:
            raise CrossresError(f"'{name}' shows no maps, only its embedding; choose losses that read embeddings")
        raise CrossresError(
            f"the stages of '{name}' are not known; name its modules in stages.teacher or stages.student"
        )
    return found


def paired_stages(
    teacher: Encoder, student: Encoder, of_teacher: Sequence[str] | None, of_student: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return as many module paths of the teacher as of the student.

    Args:
        teacher: the HR network.
        student: the LR network.
        of_teacher: paths inside the teacher's backbone; None for the ends of its stages.
        of_student: paths inside the student's backbone; None for the ends of its stages.

    Returns:
        The paths given; of networks with different numbers of stages, the last ones that both have.

    Raises:
        CrossresError: paths of both are given, but not as many; or more of one than the other has stages.
    """
    left, right = list(of_teacher or stage_paths(teacher)), list(of_student or stage_paths(student))
    count = len(of_teacher or of_student or ()) or min(len(left), len(right))
    if min(len(left), len(right)) < count or len(of_student or ()) not in (0, count):
        raise CrossresError(
            f"stages: {len(left)} maps of the teacher and {len(right)} of the student; name as many modules of each"
        )
    return left[-count:], right[-count:]


def capture_maps(encoder: Encoder, paths: Sequence[str], size: int) -> list[Shape]:
    """Let an encoder return the maps of these modules from now on; return their (channels, height, width).

    Args:
        encoder: in any mode; its statistics stay as they are.
        paths: modules inside its backbone.
        size: side of the images it is going to read.

    Raises:
        CrossresError: no such module, or one whose output is no map (B, C, H, W).
    """
    encoder.capture(*paths)
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, size, size, device=encoder.mean.device)).features
    encoder.train(training)
    shapes = []
    for path, maps in features.items():
        if maps.ndim != 4:
            raise CrossresError(
                f"stages: '{path}' gives {tuple(maps.shape)}, no map (B, C, H, W); name a convolution"
            )
        shapes.append((maps.shape[1], maps.shape[2], maps.shape[3]))
    return shapes
