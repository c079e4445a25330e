"""The groups of options that commands share: how images are read, the network, its training.

The help of an option is its text below ``Args:`` in the docstring of its class or of a base.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(kw_only=True)
class SavedModel:
    """A model that a command reads.

    Args:
        model: a run's folder, a model's folder, a Hub name, or an ONNX file.
        trust_code: import the code that a saved model names for its network.
    """

    positional: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    trust_code: bool = False


@dataclass
class ImageColumn:
    """Where the images lie in parquet files.

    Args:
        image_column: column of the images in parquet files; in tars their ending; found if left out.
    """

    image_column: str | None = None


@dataclass
class Columns(ImageColumn):
    """Where images and labels lie in parquet files.

    Args:
        label_column: column of the labels in parquet files; in tars an ending or a key of .json; found if left out.
    """

    label_column: str | None = None


@dataclass
class Reading(Columns):
    """How labelled images are read.

    Args:
        classes: names of the classes to use; all if left out. A teacher may know more than these.
        corrupt: what to do with a file that cannot be read: refuse it (the run stops), or skip it with a count.
        download: fetch a torchvision data set that is not on disk.
        root: folder of the torchvision data sets.
        memory_mb: most MiB of a split's decoded images to keep in memory; above it worker processes decode them at
            every epoch. On a GPU, a teacher's cached outputs up to this size are copied to it.
        group: which images belong together (the frames of a track, of a video, of a scene): a column of parquet
            files, or a regular expression on the paths of others, whose first capture names the group. No split that
            is made has a group on both sides.
        range: values of black and white in images of more than 8 bits, such as [0,4095]; if left out each picture
            keeps the 8 highest bits that it takes. What the student reads later is read alike.
        verify: tell images on disk from others by their bytes, and not by sizes and modification times.
    """

    classes: list[str] | None = None
    corrupt: Literal["refuse", "skip"] = "refuse"
    download: bool = False
    root: str | None = None
    memory_mb: int = 4096
    group: str | None = None
    range: tuple[float, float] | None = None
    verify: bool = False


@dataclass
class TestImages(Reading):
    """How the images that a saved model is judged on are read.

    Args:
        test_fraction: share of the images held out for testing where the source has no split of its own; that of the
            model's training if left out.
    """

    test_fraction: float | None = None


@dataclass
class Images(Reading):
    """How the images of a training are read.

    Args:
        test_fraction: share of the images held out for testing where the source has no split of its own.
        fit: how an image that is not square is fitted: crop its centre, squash it, or pad it with black.
        workers: processes that decode a set larger than memory_mb.
        buffer: images among which the next one is drawn where shards larger than memory_mb are read in order.
    """

    test_fraction: float = 0.2
    fit: Literal["crop", "squash", "pad"] = "crop"
    workers: int = 2
    buffer: int = 16_384


def how_unlabelled(images: Images) -> dict[str, Any]:
    """Return how a training reads images without labels, as keywords of `crossres.data.readers.read_unlabelled`."""
    names = ("image_column", "corrupt", "memory_mb", "group", "range", "verify")
    return {name: getattr(images, name) for name in names}


def as_trained(images: Images) -> TestImages:
    """Return how a training read its images, for a judgement of others."""
    return TestImages(**{each.name: getattr(images, each.name) for each in fields(Reading)})


@dataclass
class Augment:
    """What happens to both resolutions of a training image, at high resolution, before it is degraded.

    Args:
        shift: largest random shift in HR pixels, both ways (a random crop of the mirrored-out image).
        flip: mirror left to right with probability one half.
        zoom: largest random enlargement or reduction, as a share: 0.1 is 90 % to 110 %; 0 = off.
        colour: largest random change of brightness, contrast and saturation, each as a share; 0 = off.
    """

    shift: int = 4
    flip: bool = True
    zoom: float = 0.0
    colour: float = 0.0


@dataclass
class Model:
    """The network that is trained.

    Args:
        name: the network, such as resnet20 or timm:NAME; a native low-resolution backbone (resnet8x4, wrn_16_2, vgg8,
            MobileNetV2, ShuffleNetV2, MobileFaceNet...), timm:NAME, package.module:callable or onnx:FILE, a trainable
            copy of an ONNX file: it enlarges what it reads to the file's size, or resizes to input_size at less cost.
        embedding_dim: width of the embedding; the backbone's own if left out.
        input_size: side the images are resized to before the network reads them; the size the network is
            trained at if left out, so nothing is resized.
        small_input: lower the first stride and drop the first pooling of a timm model, so that it reads small
            images; auto does so up to 64 pixels.
        pretrained: start a timm model from its published weights (downloads them).
        weights: start from these weights: a folder of crossres, a .safetensors or a .pt/.pth file.
    """

    name: str = "resnet8x4"
    embedding_dim: int | None = None
    input_size: int | None = None
    small_input: Literal["auto", "yes", "no"] = "auto"
    pretrained: bool = False
    weights: str | None = None


@dataclass
class Stages:
    """Which feature maps the losses on maps compare, as module paths inside the backbones.

    Args:
        teacher: the teacher's maps, such as [layer2, layer3]; the ends of the network's stages if left out.
        student: the student's maps, as many; where both are left out, the last stages that both have are paired.
    """

    teacher: list[str] | None = None
    student: list[str] | None = None


@dataclass
class Train:
    """How it is trained.

    Args:
        epochs: passes over the training images; if left out 60 of less than 5,000 images, else 30.
        batch_size: images per batch, over all devices together; if left out 16 to 128, at most a thirtieth of the
            training images: the largest of 16, 32, 64 and 128 that is, or 16.
        accumulate: batches whose mean gradient is one step of the optimizer, as of one batch of so many times
            batch_size; batch norm, and losses that compare images with each other, see batch_size of them.
        images_per_class: draw classes, not images, and this many images of each, so that every class is met equally
            often and has company in its batch; 0 = off.
        optimizer: the optimizer: sgd (Nesterov momentum) or adamw.
        learning_rate: peak learning rate.
        momentum: momentum of sgd.
        weight_decay: weight decay, on every weight but biases and normalisation.
        schedule: course of the learning rate; one_cycle (up for 30 %, then to 0), cosine, step (x0.1 at milestones).
        milestones: milestones of step, as fractions of the training.
        val_fraction: share of the training images held out (of objects 50,000 at most); the last epoch is saved
            unless one is better on them beyond chance. 0: always the last.
        ema: decay of an exponential moving average of the weights, evaluated in their place; 0 = off.
        channels_last: keep images and weights in channels-last memory order.
        devices: how many GPUs or processes; under torchrun, those it started.
        seed: random seed, of weights, order, augmentation and degradation; the splits are the same for all.
        tensorboard: also write the metrics for TensorBoard.
    """

    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    images_per_class: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    milestones: list[float] = field(default_factory=lambda: [0.625, 0.75, 0.875])
    val_fraction: float = 0.1
    ema: float = 0.0
    channels_last: bool = True
    devices: int = 1
    seed: int = 0
    tensorboard: bool = False

    def course(self, images: int) -> tuple[int, int]:
        """Return the epochs and the batch size; what is left out suits the number of training images."""
        batch = 2 ** min(7, max(4, int(math.log2(max(1, images) / 30))))
        return self.epochs or (60 if images < 5000 else 30), self.batch_size or batch
