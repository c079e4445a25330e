"""What a run is trained from: an experiment of parts, for each of the commands that train.

An experiment is its images, network, training and losses (`Experiment`), with a `Distillation` or without, and with
`FaceProtocol` where it is of faces. A command's options are those of its parts, all at one level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from crossres.config.methods import FACE_METHODS, METHODS, Losses
from crossres.config.options import Augment, Device, Images, Model, Precision, Stages, Train
from crossres.core.files import holds_embeddings
from crossres.data.degradation import Degradation
from crossres.models.onnx_input import OnnxInput
from crossres.models.ready import READY

#: Stands in a config for a teacher that was handed over in Python.
IN_MEMORY = "(in memory)"


@dataclass(kw_only=True)
class Experiment:
    """What every training has.

    Args:
        data: a folder of class folders, of parquet or tar files, a torchvision name (cifar10, cifar100,
            svhn, stl10) or digits.
        name: name of the run, which is written to RUNS/NAME.
        runs: folder of the runs.
        hr_size: side of the high-resolution images; if left out the teacher's, else the images' shorter side
            where all share it, else 32.
        images: how the images are read.
        augment: what happens to a training image.
        model: the network.
        train: how it is trained.
        method: training method; see crossres methods. A set of losses with the weights of the tables; if left out
            the measured best: of objects with a teacher crrcd, or crrcd-images where the feature maps of teacher or
            student are not known (an ONNX file, stored embeddings, your own network); none where losses are given.
        losses: the terms of the loss: a weight each (0 = off) and their options, over those of the method.
        device: auto takes a GPU where there is one.
        precision: auto is bfloat16 autocast where the device computes it in hardware, else float32.
        engine: where it is computed: on this machine (under torchrun on those it joins), or ray: on all machines of a
            cluster, which share the folders, with every GPU, or train.devices processes each.
        trust_code: import the code that a saved model names where its network is a package.module:callable.
    """

    command: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ("data",)
    methods: ClassVar[dict[str, Losses]] = METHODS
    #: what the run is for: a name in `crossres.training.tasks`
    task: ClassVar[str] = "classification"

    data: str = "digits"
    name: str = "run"
    runs: str = "runs"
    hr_size: int | None = None
    images: Images = field(default_factory=Images)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    method: str | None = None
    losses: dict[str, dict[str, Any]] | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    engine: Literal["local", "ray"] = "local"
    trust_code: bool = False

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.runs) / self.name

    @property
    def distillation(self) -> Distillation | None:
        """The part that has a low resolution and may have a teacher; None for a network of high resolution."""
        return self if isinstance(self, Distillation) else None

    @property
    def faces(self) -> FaceProtocol | None:
        """The part of faces; None for objects."""
        return self if isinstance(self, FaceProtocol) else None

    @property
    def default_method(self) -> str:
        """The method where neither ``method`` nor ``losses`` is given."""
        return "labels"

    @property
    def terms(self) -> dict[str, dict[str, Any]]:
        """The losses that are on, by name, as `crossres.config.reading` resolved them."""
        assert self.losses is not None, "a config is read by crossres.config.reading before it is used"
        return self.losses


@dataclass(kw_only=True)
class Distillation:
    """What a low-resolution student has beside.

    Args:
        teacher: a trained run's or model's folder, a Hub name, an ONNX file, or stored embeddings; these are .npz or
            .parquet with path and embedding, or .npy with the paths in a .txt; or efficientnet-lite0 to 2, trained on
            ImageNet, in an extra. Left out: labels alone.
        teacher_name: architecture of a teacher that is a plain checkpoint (.pt, .pth or .safetensors, its classes
            in the order of the data's), named as in model.name; left out for a saved model.
        onnx_input: what ONNX files (the teacher, or a student that starts from one) expect of their input.
        lr_size: side of the low-resolution images the student reads, or [smallest, largest].
        degradation: how a low-resolution image comes from a high-resolution one.
        teacher_cache: compute the teacher's outputs once per image and flip (its maps then roughly follow the
            view's shift and zoom, its embeddings and logits do not); false computes them live on exactly the
            student's view.
        teacher_views: what the teacher sees: own = the student's view; mirrored = also its mirror image; its answer
            is the mean of both embeddings and of both logits (maps are of the own view).
        teacher_top_k: cache only so many of the teacher's logits an image, the largest, for many classes; the others
            share the rest of the probability evenly. 0: all.
        cache_dir: folder of the teacher's outputs; RUNS/cache if left out.
        stages: the feature maps of losses that compare maps.
    """

    teacher: str | None = None
    teacher_name: str | None = None
    onnx_input: OnnxInput = field(default_factory=OnnxInput)
    lr_size: int | tuple[int, int] = 8
    degradation: Degradation = field(default_factory=Degradation)
    teacher_cache: bool = True
    teacher_views: Literal["own", "mirrored"] = "own"
    teacher_top_k: int = 0
    cache_dir: str | None = None
    stages: Stages = field(default_factory=Stages)


@dataclass(kw_only=True)
class FaceProtocol:
    """What a training on faces has beside.

    Args:
        unlabelled: train on these images instead, which have no names: a folder with images anywhere below
            it, or parquet files. The people of the data then only choose the epoch and judge.
        pairs: pairs file of the test images, LFW's text format or CSV; drawn like the validation's if left out.
        val_pairs: pairs drawn among the validation images, half of them of one person.
    """

    unlabelled: str | None = None
    pairs: str | None = None
    val_pairs: int = 6000


@dataclass(kw_only=True)
class Teach(Experiment):
    """Train a teacher on high-resolution images."""

    command: ClassVar[str] = "crossres teach"
    first: ClassVar[tuple[str, ...]] = (
        *("data", "name", "hr_size", "device", "model.name", "model.pretrained", "model.weights"),
        *("train.epochs", "train.batch_size", "train.learning_rate", "train.seed", "images.label_column"),
        "images.test_fraction",
    )
    example: ClassVar[str] = "crossres teach photos --name teacher --model.name resnet20 --train.epochs 60"

    name: str = "teacher"


@dataclass(kw_only=True)
class Distill(Distillation, Experiment):
    """Train a student that reads low-resolution images, from a teacher or from labels alone.

    Args:
        natural: images of the same classes that are small by nature, such as the student's own camera gives, to train
            on beside those that are shrunk. Of each the teacher sees an HR image of its group (images.group), or of
            its class where there is none.
        natural_share: share of each batch that they fill.
        natural_labels: a trained student that labels them: no labels of their own are read, and those that it is not
            sure of are left out. See crossres adapt.
    """

    command: ClassVar[str] = "crossres distill"
    first: ClassVar[tuple[str, ...]] = (
        *("data", "teacher", "lr_size", "method", "name", "hr_size", "device", "degradation.preset"),
        *("model.name", "model.weights", "train.epochs", "train.batch_size", "train.learning_rate", "train.seed"),
        *("images.label_column", "images.test_fraction", "natural"),
    )
    example: ClassVar[str] = "crossres distill photos --teacher runs/teacher --lr_size 8 --name student"

    name: str = "student"
    natural: str | None = None
    natural_share: float = 0.5
    natural_labels: str | None = None

    @property
    def default_method(self) -> str:
        if not self.teacher:
            return "labels"
        # networks of the user's own or of others, whose stages are not known, and files that give embeddings alone
        own = self.teacher == IN_MEMORY or (":" in self.model.name and not self.model.name.startswith("timm:"))
        other = self.teacher in READY or self.teacher.lower().endswith(".onnx")
        without_maps = own or other or holds_embeddings(self.teacher)
        return "crrcd-images" if without_maps else "crrcd"


@dataclass(kw_only=True)
class Adapt:
    """Adapt a student to a camera, from its crops without labels: train it again with them, into a run of its own.

    The trained student labels the crops that it is sure of; a new one learns from them and from the run's own images,
    under the run's options. Of each crop the teacher sees an image of its class.

    Args:
        run: folder of the student's run; its data and its teacher have to be where they were.
        crops: the camera's crops: a folder with images anywhere below it, or parquet files; all of them are read.
        name: of the adapted run, which is written beside the student's; NAME-adapted if left out.
        labelled: crops of the camera that have labels, of the student's classes: they compare both students, and an
            adapted one that is worse on them is not kept.
        device: where it runs; the run's own if left out.
        trust_code: import the code that the run names for its networks.
    """

    command: ClassVar[str] = "crossres adapt"
    positional: ClassVar[tuple[str, ...]] = ("run", "crops")
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres adapt runs/student camera-crops"

    run: str
    crops: str
    name: str | None = None
    labelled: str | None = None
    device: Device | None = None
    trust_code: bool = False


@dataclass(kw_only=True)
class Faces(FaceProtocol, Distillation, Experiment):
    """Train a low-resolution face encoder, from a teacher, from people's names or from both.

    People are the classes. The validation images are those of people held out (train.val_fraction of them; with
    unlabelled images, all of the training split), the test images those of the test split's own people; both are
    judged at low resolution on both sides.
    """

    command: ClassVar[str] = "crossres faces distill"
    methods: ClassVar[dict[str, Losses]] = FACE_METHODS
    task: ClassVar[str] = "faces"
    first: ClassVar[tuple[str, ...]] = (
        *("data", "teacher", "lr_size", "method", "name", "hr_size", "unlabelled", "pairs", "device"),
        *(
            "degradation.preset",
            "model.name",
            "model.embedding_dim",
            "train.epochs",
            "train.batch_size",
            "train.seed",
        ),
        *("images.label_column", "onnx_input.highest", "onnx_input.colours"),
    )
    example: ClassVar[str] = "crossres faces distill people --teacher sface.onnx --lr_size 16 --name faces"

    name: str = "faces"

    @property
    def default_method(self) -> str:
        # without names, and its students can search the teacher's gallery
        return "cosine" if self.teacher else "cosface"


#: What a first user needs to fill a cache: what decides which outputs a student reads.
_FILLED = (
    *("data", "teacher", "lr_size", "method", "hr_size", "device", "precision", "model.name", "cache_dir", "runs"),
    *("images.label_column", "engine"),
)


@dataclass(kw_only=True)
class Cache(Distill):
    """Compute a teacher's outputs before students are trained with the same options; goes on where it stopped.

    Several processes or machines share the work; so do later trainings, which compute what is not there yet.
    """

    command: ClassVar[str] = "crossres cache"
    first: ClassVar[tuple[str, ...]] = _FILLED
    example: ClassVar[str] = "crossres cache photos --teacher runs/teacher --lr_size 8 --engine ray"


@dataclass(kw_only=True)
class FacesCache(Faces):
    """Compute a teacher's outputs on faces before students are trained with the same options."""

    command: ClassVar[str] = "crossres faces cache"
    first: ClassVar[tuple[str, ...]] = (*_FILLED, "unlabelled")
    example: ClassVar[str] = "crossres faces cache people --teacher sface.onnx --lr_size 16"
