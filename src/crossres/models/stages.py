"""Which feature maps of two networks are compared."""

from collections.abc import Sequence

import torch

from crossres.core.errors import CrossresError
from crossres.losses.base import Shape
from crossres.models.encoder import Encoder
from crossres.models.foreign import evaluating

WITHOUT = "choose losses that read embeddings (of crossres distill --method crrcd-images)"


def stage_paths(encoder: Encoder) -> list[str]:
    """Return the module paths of the ends of a backbone's stages, from the first to the last.

    The networks of `BACKBONES` name them in ``stages``, those of timm in ``feature_info``.

    Raises:
        CrossresError: another network; its modules have to be named.
    """
    own = getattr(encoder.backbone, "stages", None)
    if isinstance(own, tuple):
        return list(own)
    modules = {path for path, _ in encoder.backbone.named_modules()}
    listed = getattr(encoder.backbone, "feature_info", None) or ()
    if "NHWC" in str(getattr(encoder.backbone, "output_fmt", "")):
        raise CrossresError(f"the maps of '{encoder.architecture.get('name')}' have their channels last; {WITHOUT}")
    if paths := [str(info["module"]) for info in listed if info.get("module") in modules]:
        return paths
    name = encoder.architecture.get("name", "the network")
    if not modules - {""}:
        raise CrossresError(f"'{name}' has no feature maps, only its embedding; {WITHOUT}")
    raise CrossresError(
        f"the stages of '{name}' are not known; name its modules in stages.teacher or stages.student, or {WITHOUT}"
    )


def paired_stages(
    teacher: Encoder, student: Encoder, of_teacher: Sequence[str] | None, of_student: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return as many module paths of the teacher's backbone as of the student's: those given, else ends of stages.

    Of networks with different numbers of stages these are the last ones that both have.

    Raises:
        CrossresError: paths of both are given, but not as many; or more of one than the other has stages.
    """
    left, right = list(of_teacher or stage_paths(teacher)), list(of_student or stage_paths(student))
    count = len(of_teacher or of_student or ()) or min(len(left), len(right))
    if min(len(left), len(right)) < count or len(of_student or ()) not in (0, count):
        counts = f"{len(left)} maps of the teacher and {len(right)} of the student"
        raise CrossresError(f"stages: {counts}; name as many modules for both")
    return left[-count:], right[-count:]


def capture_maps(encoder: Encoder, paths: Sequence[str], size: int) -> list[Shape]:
    """Let an encoder return the maps of these modules of its backbone from now on, and return their shapes.

    A shape is (channels, height, width) where it reads images of side ``size``. The encoder may be in any mode; its
    statistics stay as they are.

    Raises:
        CrossresError: no such module, or one whose output is not a map (B, C, H, W).
    """
    encoder.capture(*paths)
    with evaluating(encoder):
        features = encoder(torch.zeros(1, 3, size, size, device=encoder.mean.device)).features
    for path, maps in features.items():
        if maps.ndim != 4:
            shape = tuple(maps.shape)
            raise CrossresError(
                f"stages: '{path}' returns {shape}, not a map (B, C, H, W); name a convolution, or {WITHOUT}"
            )
    return [(maps.shape[1], maps.shape[2], maps.shape[3]) for maps in features.values()]
