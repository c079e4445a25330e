"""The commands that judge trained models and compare methods: their options."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from crossres.config.options import Device, ImageColumn, Precision, SavedModel, TestImages
from crossres.data.degradation import Degradation
from crossres.models.onnx_input import OnnxInput

#: As of `crossres.data.splits.Split`, which the help should not have to import.
Split = Literal["test", "train", "all"]


@dataclass(kw_only=True)
class Judgement(SavedModel):
    """What every judgement of a saved model on labelled images has.

    Args:
        model: a run's or model's folder, a Hub name, a ready model of crossres models, or an ONNX file of crossres
            export.
        data: a folder of class folders, of parquet or tar files, a torchvision name or digits.
        images: how the images are read.
        degradation: another than that of the model's training.
        device: auto takes a GPU where there is one.
        precision: numeric precision; that of the model's training if left out.
    """

    positional: ClassVar[tuple[str, ...]] = ("model", "data")
    returns_document: ClassVar[bool] = True

    data: str
    images: TestImages = field(default_factory=TestImages)
    degradation: Degradation | None = None
    device: Device = "auto"
    precision: Precision | None = None


@dataclass(kw_only=True)
class Evaluate(Judgement):
    """Accuracy, confusion and accuracy against resolution of a model on labelled images.

    Args:
        split: split to judge; all of a source without any.
        sizes: sides of the curve in pixels; some around that of the training if left out.
        native: the images are small already, do not shrink them; they are judged as they are.
        natural: data sets of the same classes whose images are small by nature; they are judged as they are. The
            table shows what is lost on each, and under other degradations, with its interval.
        png: draw the curve and the confusion matrix into this file.
    """

    command: ClassVar[str] = "crossres evaluate"
    first: ClassVar[tuple[str, ...]] = (
        *("model", "data", "split", "sizes", "native", "natural", "png", "device", "images.label_column"),
        "degradation.preset",
    )
    example: ClassVar[str] = "crossres evaluate runs/student photos --sizes 4,8,16 --png curve.png"

    split: Split = "test"
    sizes: list[int] = field(default_factory=list)
    native: bool = False
    natural: list[str] = field(default_factory=list)
    png: str | None = None


@dataclass(kw_only=True)
class Transfer(Judgement):
    """What a model's embeddings are worth on other images: a linear probe and nearest neighbours."""

    command: ClassVar[str] = "crossres transfer"
    first: ClassVar[tuple[str, ...]] = ("model", "data", "device", "images.label_column", "degradation.preset")
    example: ClassVar[str] = "crossres transfer runs/student other-photos"


@dataclass(kw_only=True)
class Match(ImageColumn):
    """Estimate how a camera degrades: from HR images and unlabelled crops that it gave, into options for distill.

    Args:
        hr: high-resolution images of the same kind of objects: a folder with images anywhere below it, or parquet
            files.
        crops: the camera's crops, read alike; 20 at least, a thousand are used.
        out: file of the options; a picture of real beside simulated crops is written beside it.
        lr_size: side that the crops are read at, or [smallest, largest]; their own sides if left out.
        hr_size: side that the HR images are read at; their own, but at most four times lr_size, if left out.
        fit: how an image that is not square is fitted: crop its centre, squash it, or pad it with black.
        range: values of black and white in images of more than 8 bits, as in a training; written to the file, too.
        seed: random seed.
    """

    command: ClassVar[str] = "crossres match"
    positional: ClassVar[tuple[str, ...]] = ("hr", "crops")
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres match photos camera-crops --out camera.yaml"

    hr: str
    crops: str
    out: str = "camera.yaml"
    lr_size: int | tuple[int, int] | None = None
    hr_size: int | None = None
    fit: Literal["crop", "squash", "pad"] = "crop"
    range: tuple[float, float] | None = None
    seed: int = 0


@dataclass(kw_only=True)
class EvaluateFaces(Judgement):
    """Verification, identification and retrieval by a face model, at HR-HR, HR-LR and LR-LR.

    Args:
        model: as in crossres evaluate, or any ONNX face model.
        data: a folder of a folder for each person, of parquet or tar files, or a .bin of insightface.
        pairs: pairs file, LFW's text format or CSV; drawn from the people if left out.
        threshold_pairs: pairs file to choose the threshold on; of the training split (of all images where there
            are none). held-out: pairs drawn among the people whom the model's training held out.
        pairs_only: verification only: skip identification.
        templates: list of IJB, a line for each image with its template and medium: templates are compared, each as
            the mean over its images; pairs are then lines of two templates and 0 or 1.
        search: two CSV files of IJB with the templates to search in and those to search for.
        by_quality: in a template an image counts by the length of its embedding.
        gallery: another model for the HR side, such as the teacher in whose space the model was trained; or its
            stored embeddings.
        sizes: LR sides in pixels; those of the training if left out.
        hr_size: side the images are read at; the model's or gallery's if left out.
        split: split to judge (of a source without any the people that `distill` holds out, or the others); left out:
            test, or all of a source without any.
        onnx_input: what ONNX files expect of their input; what the model was trained with if left out.
        layout: the data is a set in its own layout: tinyface, survface, survface-pairs, scface (scface-1 to -3: one
            distance), uccs or folders.
        native: the images are small already, do not shrink them; they are judged as they are.
        align: ONNX file of OpenCV's YuNet, which finds the largest face in each image, to align it by five points
            before it is shrunk; of native images only those of the gallery.
        flip: average the embeddings of each image and its mirror image, on both sides; stored ones stay as they are.
        resamples: resamples of the bootstrap; 0 leaves intervals out.
        far: false accept rates that TAR is given at.
        fpir: false positive identification rates that TPIR is given at.
        cache_dir: keep the gallery model's embeddings here, for the next model.
        png: draw the curves into this file.
        scores: write the similarity of each pair, at all sides and sizes, into this CSV file.
    """

    command: ClassVar[str] = "crossres faces evaluate"
    first: ClassVar[tuple[str, ...]] = (
        *("model", "data", "pairs", "threshold_pairs", "gallery", "sizes", "split", "native", "flip", "far", "png"),
        *("scores", "device", "images.label_column", "onnx_input.highest", "onnx_input.colours"),
    )
    example: ClassVar[str] = "crossres faces evaluate runs/faces people --pairs pairs.txt --sizes 8,16"

    pairs: str | None = None
    threshold_pairs: str | None = None
    pairs_only: bool = False
    templates: str | None = None
    search: tuple[str, str] | None = None
    by_quality: bool = False
    gallery: str | None = None
    sizes: list[int] = field(default_factory=list)
    hr_size: int | None = None
    split: Split | None = None
    onnx_input: OnnxInput | None = None
    layout: str | None = None
    native: bool = False
    align: str | None = None
    flip: bool = False
    resamples: int = 1000
    far: list[float] | None = None
    fpir: list[float] = field(default_factory=lambda: [0.01, 0.1, 0.3])
    cache_dir: str | None = None
    png: str | None = None
    scores: str | None = None


@dataclass(kw_only=True)
class Bench:
    """Run and tabulate a grid of distillations, skipping finished runs.

    Args:
        grid: YAML file of the grid: name, methods, pairs, lr_sizes, degradations, seeds, base...
        data: the images; what the grid's base says if left out.
        runs: folder of the runs; what the grid's base says if left out.
        engine: where the runs go: this machine, or the cluster that Ray is connected to.
        parallel: local runs side by side, each on its own cores.
        trust_code: import the code that the grid names for networks.
    """

    command: ClassVar[str] = "crossres bench"
    positional: ClassVar[tuple[str, ...]] = ("grid",)
    example: ClassVar[str] = "crossres bench recipes/digits.yaml --parallel 2"

    grid: str
    data: str | None = None
    runs: str | None = None
    engine: Literal["local", "ray"] = "local"
    parallel: int = 1
    trust_code: bool = False


@dataclass(kw_only=True)
class Report:
    """Show finished runs as one self-contained HTML page: curves, results, worst errors, embeddings, speed.

    Args:
        runs: folders of runs; several are set side by side.
        data: the images to judge them on; what each run was trained with if left out.
        out: file of the page.
        teacher: a saved model to compare with; each run's own teacher if left out.
        gallery: another model for the HR side of faces, such as the teacher.
        natural: data sets of the same classes whose images are small by nature; what is lost on them is shown.
        images: worst errors shown of a run; fewer of many runs.
        device: auto takes a GPU where there is one.
        trust_code: import the code that a saved model names for its network.
    """

    command: ClassVar[str] = "crossres report"
    positional: ClassVar[tuple[str, ...]] = ("runs",)
    example: ClassVar[str] = "crossres report runs/student runs/labels --out report.html"

    runs: list[str]
    data: str | None = None
    out: str = "report.html"
    teacher: str | None = None
    gallery: str | None = None
    natural: list[str] = field(default_factory=list)
    images: int = 12
    device: Device = "auto"
    trust_code: bool = False


@dataclass(kw_only=True)
class Demo:
    """The whole story on 5,000 digits that need no download: teacher at 28x28, students at 7x7 and 4x4.

    Few of them are trained on, as where crops are few; the others judge.

    Args:
        runs: folder of the runs and the report.
        seeds: students of each kind.
        device: auto takes a GPU where there is one.
        teacher_epochs: epochs of the teacher.
        student_epochs: epochs of each student.
    """

    command: ClassVar[str] = "crossres demo"
    positional: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str] = "crossres demo --seeds 1"

    runs: str = "runs/demo"
    seeds: int = 3
    device: Device = "auto"
    teacher_epochs: int = 15
    student_epochs: int = 25


@dataclass(kw_only=True)
class Methods:
    """List the methods by name, with their losses, measured accuracy and step cost."""

    command: ClassVar[str] = "crossres methods"
    positional: ClassVar[tuple[str, ...]] = ()
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres methods"


@dataclass(kw_only=True)
class Info:
    """Versions, devices and what is installed."""

    command: ClassVar[str] = "crossres info"
    positional: ClassVar[tuple[str, ...]] = ()
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres info --json"
