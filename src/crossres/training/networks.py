"""The networks of a run: the teacher as a config names it, and the student as it starts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import torch

from crossres.config.experiment import Experiment
from crossres.config.options import Model
from crossres.core.devices import Device
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.decode import Fit
from crossres.data.degradation import Size, check_size
from crossres.data.images import ImageSet
from crossres.models.encoder import Encoder, build_encoder, check_name
from crossres.models.onnx_encoder import onnx_copy
from crossres.models.onnx_input import ONNX
from crossres.models.pretrained import from_pretrained
from crossres.models.teachers import frozen_teacher, order_classes, read_teacher
from crossres.models.weights import fit_weights, load_weights


def check_networks(config: Experiment, teacher: Encoder | None) -> Encoder | None:
    """Check the names of networks and the places of weights; return the teacher where it is a saved model.

    Args:
        config: a checked experiment.
        teacher: one that is in memory.

    Raises:
        CrossresError: an unknown network, or nothing where weights or a teacher should be.
    """
    check_name(config.model.name)
    if config.model.weights and not Path(config.model.weights).exists():
        raise CrossresError(f"there is no checkpoint {config.model.weights}")
    distillation = config.distillation
    if distillation is None or teacher is not None:
        return teacher
    if distillation.teacher_name:
        check_name(distillation.teacher_name)
    elif distillation.teacher:
        return read_teacher(distillation.teacher, distillation.onnx_input, trust_code=config.trust_code)
    return None


def build_teacher(
    config: Experiment,
    teacher: Encoder | None,
    images: ImageSet,
    classes: Sequence[str],
    hr_size: int,
    progress: Progress,
) -> Encoder | None:
    """Return the frozen teacher, its classes in the order of the student's; None without one.

    Args:
        config: a checked experiment.
        teacher: one that `check_networks` returned; else the plain checkpoint that the config names is read.
        images: training images, whose classes a plain checkpoint knows and whose pixels it is normalised by.
        classes: of the student's classifier.
        hr_size: side in pixels of the images that a plain checkpoint reads.
        progress: says which of the teacher's classes are left out.

    Raises:
        CrossresError: it does not know the classes, or the checkpoint does not fit.
    """
    distillation = config.distillation
    if distillation is None or distillation.teacher is None:
        return None
    if teacher is None:
        name = distillation.teacher_name
        assert name is not None
        mean, std = _normalisation(name, images, hr_size, config.images.fit)
        teacher = build_encoder(name, classes=images.classes, input_size=hr_size, mean=mean, std=std)
        load_weights(teacher, distillation.teacher)
    more = len(teacher.classes) - len(images.classes) if config.images.classes else 0
    if more > 0:
        progress.say(f"the teacher has {more} classes that are not in images.classes; their logits are dropped")
    return frozen_teacher(
        teacher, classes, f"the teacher {distillation.teacher}", may_know_more=bool(config.images.classes)
    )


def build_student(
    config: Experiment, images: ImageSet, classes: Sequence[str], hr_size: int, lr_size: Size
) -> Encoder:
    """Return the network that is trained, as it starts: random, from weights, or from an ONNX file.

    Args:
        config: a checked experiment.
        images: training images, whose pixels it is normalised by.
        classes: of its classifier.
        hr_size: side of the images that the normalisation is measured on.
        lr_size: side of the images it reads, or their range.

    Raises:
        CrossresError: weights that do not fit, or options that the ONNX file decides.
    """
    _, size = check_size(lr_size)
    model, weights, start = config.model, config.model.weights, None
    if model.name.startswith(ONNX):
        return _copied_student(config, classes)
    if weights and Path(weights).is_dir():
        start = from_pretrained(weights, trust_code=config.trust_code)
        if classes:
            order_classes(start, classes, f"model.weights {weights}")
    # a saved model brings its classes' order and its normalisation
    own = start and (start.mean.flatten().tolist(), start.std.flatten().tolist())
    mean, std = own or _normalisation(model.name, images, hr_size, config.images.fit)
    student = build_encoder(
        model.name,
        classes=classes,
        input_size=model.input_size or size,
        mean=mean,
        std=std,
        embedding_dim=model.embedding_dim,
        small_input=model.small_input,
        pretrained=model.pretrained,
    )
    if start is not None:
        fit_weights(student, start.state_dict(), f"model.weights {weights}")
    elif weights:
        load_weights(student, weights)
    return student


def _copied_student(config: Experiment, classes: Sequence[str]) -> Encoder:
    """Return a student that starts from an ONNX file, which decides its widths, its size and its weights."""
    if config.distillation is None:
        remedy = f"onnx:FILE needs crossres distill or faces distill; {config.command} has no onnx_input"
        raise CrossresError(f"model.name {config.model.name}: {remedy}")
    plain = Model(name=config.model.name)
    for option in fields(plain):
        if option.name != "input_size" and getattr(config.model, option.name) != getattr(plain, option.name):
            raise CrossresError(f"model.{option.name}: the file of {config.model.name} decides it; leave it out")
    path = config.model.name.removeprefix(ONNX)
    return onnx_copy(path, config.distillation.onnx_input, classes, config.model.input_size)


def _normalisation(name: str, images: ImageSet, size: int, fit: Fit) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and deviation per channel, from at most 4,000 images; None: a timm model brings its own."""
    if name.startswith("timm:"):
        return None, None
    positions = torch.linspace(0, len(images) - 1, min(4000, len(images))).long().tolist()
    sums, squares, count = torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long), 0
    for pixels in (images.sample(i, size, fit).flatten(1).long() for i in positions):
        sums, squares, count = sums + pixels.sum(1), squares + (pixels**2).sum(1), count + pixels.shape[1]
    mean = sums.double() / count
    deviation = ((squares.double() - mean * sums) / max(1, count - 1)).clamp(min=0).sqrt() / 255
    return (mean / 255).tolist(), deviation.clamp(min=1e-2).tolist()


def shorter_sides(images: ImageSet) -> list[int]:
    """Return the shorter side of some 64 images that are spread over all, in pixels, in rising order."""
    sides: list[int] = []
    for i in range(0, len(images), max(1, len(images) // 64)):
        with suppress(CrossresError):  # a damaged image is reported when all are decoded
            sides.append(min(images.image(i).shape[:2]))
    return sorted(sides)


def placed(encoder: Encoder, device: Device, channels_last: bool) -> Encoder:
    """Return an encoder on a device, in the memory order of the training."""
    encoder = encoder.to(device.torch)
    return encoder.to(memory_format=torch.channels_last) if channels_last else encoder
