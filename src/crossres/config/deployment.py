"""The commands that put a trained model to use: their options."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from crossres.config.options import Columns, ImageColumn, SavedModel
from crossres.models.onnx_input import OnnxInput


@dataclass(kw_only=True)
class Export(SavedModel):
    """Write a trained model as one ONNX file that reads photos, checked against the network on real images.

    Args:
        out: ONNX file to write; model-PRECISION.onnx in the run's folder if left out.
        precision: precision of weights and sums.
        data: images that the file is checked on; those of the run if left out.
        images: the columns of parquet files; those of the run if left out.
        limit: most test images to compare.
    """

    command: ClassVar[str] = "crossres export"
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres export runs/student --precision int8 --out small.onnx"

    out: str | None = None
    precision: Literal["float32", "float16", "int8"] = "float32"
    data: str | None = None
    images: Columns = field(default_factory=Columns)
    limit: int = 10_000


@dataclass(kw_only=True)
class ServedModel(SavedModel):
    """A model that answers.

    Args:
        model: a ready model of crossres models, an ONNX file, a run's or model's folder, a Hub name.
    """


@dataclass(kw_only=True)
class Models:
    """List the ready models, or show one's card: data, licence, measured accuracy and limits.

    Args:
        name: of the model; all if left out.
    """

    command: ClassVar[str] = "crossres models"
    positional: ClassVar[tuple[str, ...]] = ("name",)
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres models faces-16"

    name: str | None = None


@dataclass(kw_only=True)
class Speed(ServedModel):
    """Measure how long a model takes an image on this machine, on one thread and on all cores.

    Args:
        model: a ready model of crossres models, an ONNX file of crossres export, a run's or model's folder, or a
            Hub name.
        batch_size: images that are run together, beside one at a time.
    """

    command: ClassVar[str] = "crossres speed"
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres speed small.onnx"

    batch_size: int = 64


@dataclass(kw_only=True)
class Predict(ServedModel):
    """Say what a model sees on photos; an answer that is not to be trusted is marked with the reason.

    Args:
        photos: image files, or folders of them.
        top: classes to name for each photo.
        csv: write a table into this file.
        threads: CPU threads for an ONNX file, 0 for all cores.
    """

    command: ClassVar[str] = "crossres predict"
    positional: ClassVar[tuple[str, ...]] = ("model", "photos")
    returns_document: ClassVar[bool] = True
    example: ClassVar[str] = "crossres predict objects-8 photos/ --top 3"

    photos: list[str]
    top: int = 1
    csv: str | None = None
    threads: int = 0


@dataclass(kw_only=True)
class Embed(ServedModel):
    """Write the embeddings of images in folders or parquet files as parquet files; goes on where it stopped.

    Args:
        data: a folder of images, a parquet file or a folder of parquet files.
        out: folder of the parquet files to write.
        images: the column of parquet files.
        batch_size: photos that are run together.
        part: photos per output file; an interrupted file is done again.
        engine: where the parts are done; ray takes them over a cluster.
        onnx_input: what an ONNX file that is not of crossres expects of its input.
    """

    command: ClassVar[str] = "crossres embed"
    positional: ClassVar[tuple[str, ...]] = ("model", "data", "out")
    example: ClassVar[str] = "crossres embed small.onnx photos/ embeddings/"

    data: str
    out: str
    images: ImageColumn = field(default_factory=ImageColumn)
    batch_size: int = 64
    part: int = 10_000
    engine: Literal["local", "ray"] = "local"
    onnx_input: OnnxInput | None = None


@dataclass(kw_only=True)
class Reader:
    """What reads the photos that are compared with each other or with a gallery.

    Args:
        model: a ready model of crossres models, an ONNX file, a run's or model's folder, a Hub name.
        min_quality: a photo of lower quality (of a face: the length of its embedding) is not enrolled and not judged.
        flip: average the embeddings of each photo and its mirror image; a gallery takes either kind alone.
        same_space: trust that model and gallery are comparable, although no record says so.
        onnx_input: what an ONNX file that is not of crossres expects of its input.
        trust_code: import the code that a saved model names for its network.
    """

    returns_document: ClassVar[bool] = True

    model: str | None = None
    min_quality: float = 0.0
    flip: bool = False
    same_space: bool = False
    onnx_input: OnnxInput | None = None
    trust_code: bool = False


@dataclass(kw_only=True)
class Enroll(Reader):
    """Put people or classes into a gallery, take them out, and set its thresholds on photos of your own.

    Args:
        gallery: file of the gallery; made if there is none.
        people: a folder of a folder of images for each identity, or of an image for each.
        flat: take the images in PEOPLE itself, not those in its folders.
        align: ONNX file of OpenCV's YuNet, which finds the largest face in each photo of PEOPLE, to align it by five
            points.
        all: also enrol flagged photos, whose embedding is not to be trusted.
        remove: identities to take out first.
        index: how the gallery is searched; exact if new.
        strangers: folder of photos of people who are not in the gallery, like the probes to come.
        sizes: sides in pixels that strangers are shrunk to, for a threshold of each: a probe has that of the largest
            size at or below its own side, and is not judged below all.
        fpir: share of strangers that may be taken for an identity.
        pairs: pairs file for the threshold of verify, LFW's text format or CSV.
        images: folder of the images that the pairs name.
        far: share of impostor pairs that may be accepted.
    """

    command: ClassVar[str] = "crossres enroll"
    positional: ClassVar[tuple[str, ...]] = ("gallery", "people")
    example: ClassVar[str] = "crossres enroll team.gallery people/ --model faces.onnx --strangers others/"

    gallery: str
    people: str | None = None
    flat: bool = False
    align: str | None = None
    all: bool = False
    remove: list[str] = field(default_factory=list)
    index: Literal["exact", "hnsw", "ivf"] | None = None
    strangers: str | None = None
    sizes: list[int] = field(default_factory=list)
    fpir: float = 0.01
    pairs: str | None = None
    images: str | None = None
    far: float = 0.001


@dataclass(kw_only=True)
class Identify(Reader):
    """Find who of a gallery is on photos, if anyone.

    Args:
        gallery: file of crossres enroll.
        photos: image files, or folders of them.
        k: how many identities to name for each photo.
    """

    command: ClassVar[str] = "crossres identify"
    positional: ClassVar[tuple[str, ...]] = ("gallery", "photos")
    example: ClassVar[str] = "crossres identify team.gallery camera.png --model faces.onnx"

    gallery: str
    photos: list[str]
    k: int = 1


@dataclass(kw_only=True)
class Verify(Reader):
    """Say whether two photos show the same.

    Args:
        photos: two image files.
        gallery: file of crossres enroll with a threshold of pairs.
        threshold: similarity at or above which two photos show the same; the model's own if left out.
        far: false accept rate of the model's own threshold: 0.001, 0.01 or 0.1; the strictest if left out.
    """

    command: ClassVar[str] = "crossres verify"
    positional: ClassVar[tuple[str, ...]] = ("photos",)
    example: ClassVar[str] = "crossres verify a.png b.png --model faces.onnx --gallery team.gallery"

    photos: list[str]
    gallery: str | None = None
    threshold: float | None = None
    far: float | None = None


@dataclass(kw_only=True)
class Page(ServedModel):
    """Open a web page on this machine that asks a model about photos: drop one, or pick a sample.

    Args:
        model: as in crossres predict; the ready models if left out.
        teacher: teacher to show beside the student; the one that the run's folder names if left out.
        samples: folder of photos to begin with; test images of the run's data if left out.
        gallery: file of crossres enroll, to search in; it brings its thresholds.
        threshold: similarity from which on two photos show the same.
        same_space: trust that model and gallery are comparable, although no record says so.
        host: address to listen at; 0.0.0.0 lets everybody in.
        port: port to listen at.
        threads: CPU threads for an ONNX file, 0 for all cores.
    """

    command: ClassVar[str] = "crossres page"
    example: ClassVar[str] = "crossres page runs/student --samples photos/"

    model: str | None = None  # type: ignore[assignment]
    teacher: str | None = None
    samples: str | None = None
    gallery: str | None = None
    threshold: float | None = None
    same_space: bool = False
    host: str = "127.0.0.1"
    port: int = 7860
    threads: int = 0
