"""The facts of finished runs: what their folders hold, their test images, their teachers; each read once."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from crossres.config.options import IN_MEMORY, Distill, Faces, Teach, Train, base_name, to_dict
from crossres.config.reading import read_run
from crossres.core.devices import Device, resolve_device
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.degradation import Degradation, Size
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.pairs import Pairs
from crossres.evaluation.embedding import sizes_of
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained
from crossres.models.stored import StoredBackbone, stored_outputs
from crossres.models.teachers import frozen_teacher, read_teacher
from crossres.models.weights import weights_sha256
from crossres.training.classification import Classification
from crossres.training.faces import FaceTask
from crossres.training.prepare import plain_teacher
from crossres.training.task import read_split

Found = TypeVar("Found")


@dataclass
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        name: its folder's name, or the whole path where another run is called so too.
        config: what was asked for, a `Teach`, `Distill` or `Faces`.
        document: its result.json.
        student: the network it trained, on the device.
        device: where the networks run, in the precision of the training.
        epochs: a row of metrics.jsonl an epoch.
        notes: what a reader has to know of the report on it.
    """

    folder: Path
    name: str
    config: Teach
    document: dict[str, Any]
    student: Encoder
    device: Device
    epochs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hr_size, self.low, self.side = sizes_of(self.student)
        self.lr_size: Size = self.side if self.low == self.side else (self.low, self.side)
        self.degradation = Degradation(**(self.student.info.get("degradation") or {}))
        #: the teacher it learned from, empty without one, and the sizes in words
        told = self.document.get("teacher")
        self.taught_by = base_name(told.get("file") or told["name"]) if told else ""
        self.at_hr = f"{self.hr_size}x{self.hr_size}"
        self.at_lr = f"{self.side}x{self.side}" if self.low == self.side else f"{self.low} to {self.side} pixels"


def read_runs(folders: Sequence[str], *, data: str | None, device: str, trust_code: bool) -> list[Run]:
    """Read runs' folders; ``data`` takes the place of the images that their configs name.

    Raises:
        CrossresError: a folder that holds no finished run, or one given twice.
    """
    paths = [Path(folder) for folder in folders]
    places = [path.resolve() for path in paths]
    runs = []
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise CrossresError(f"{path} is given twice; name each run once")
        config = read_run(path)
        try:
            document = json.loads((path / "result.json").read_text())
        except (OSError, ValueError):
            raise CrossresError(f"{path} has no readable result.json: end the run with --resume {path}") from None
        student = from_pretrained(path, trust_code=trust_code)
        how: Any = {"device": device, "precision": student.info.get("precision", "float32")}
        where = resolve_device(Train(**how))
        alone = [other.name for other in places].count(place.name) == 1
        config = config if data is None else replace(config, data=data)
        run = Run(path, place.name if alone else str(path), config, document, student.to(where.torch), where)
        try:
            lines = (path / "metrics.jsonl").read_text().splitlines()
            run.epochs = [json.loads(line) for line in lines if line.strip()]
        except (OSError, ValueError):
            run.notes.append("The run's folder has no readable metrics.jsonl, so the page has no learning curves.")
        runs.append(run)
    return runs


@dataclass(frozen=True)
class Test:
    """What a run is judged on; pairs, and the people whose pairs choose the threshold, of faces alone."""

    images: ImageSet
    pairs: Pairs | None = None
    val: ImageSet | None = None
    val_pairs: Pairs | None = None


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher on the device, its classes in the student's order; path is where it was read."""

    encoder: Encoder
    path: str

    @property
    def name(self) -> str:
        known = self.encoder.architecture
        return str(known.get("file") or known.get("name") or base_name(self.path))

    @property
    def stored(self) -> bool:
        """Whether it is a list of embeddings, which knows no other images."""
        return isinstance(self.encoder.backbone, StoredBackbone)


@dataclass
class Sources:
    """Reads once what several runs may share: test images, teachers and what these say.

    Attributes:
        given: a teacher in the place of every run's own; None for that.
        gallery: a model for the HR side of faces; None for none.
        trust_code: import the code that a saved model names.
        progress: says what is left out.
    """

    given: str | None
    gallery: str | None
    trust_code: bool
    progress: Progress
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """Return what was computed for this key, or compute it."""
        if key not in self._kept:
            self._kept[key] = compute()
        found: Found = self._kept[key]
        return found

    def test(self, run: Run) -> Test:
        """Return the images that a run is judged on; a run whose own test images these are not gets a note."""
        test = self._test(run)
        if test.images.fingerprint != run.document.get("data_sha256", {}).get("test"):
            run.notes.append(
                f"These may be other images: {test.images.name} does not carry the fingerprint of the run's test "
                "images (of a folder, names, sizes and dates of its files count). What is measured here need not be "
                "what the run recorded."
            )
        return test

    def _test(self, run: Run) -> Test:
        return self.once(("test", _images_asked(run.config)), lambda: self._read_test(run.config))

    def _read_test(self, config: Teach) -> Test:
        if isinstance(config, Faces):
            task = FaceTask(config)
            _, val, images = task.images(config, self.progress)
            return Test(images, task.test_pairs, val, task.val_pairs)
        images = read_split(config, "test")
        return Test(images if config.images.classes is None else images.of_classes(config.images.classes))

    def loader(self, run: Run, images: ImageSet) -> Loader:
        """Return a loader of some images, decoded once, at the run's high resolution."""
        options = run.config.images
        shared: Any = {"device": run.device.torch, "fit": options.fit, "memory_mb": options.memory_mb}
        return self.once(
            ("loader", id(images), run.hr_size, options.fit),
            lambda: Loader(images, hr_size=run.hr_size, lr_size=run.hr_size, workers=options.workers, **shared),
        )

    def teacher(self, run: Run) -> Teacher | None:
        """Return a run's teacher; None, with a note, where there is none at hand.

        Raises:
            CrossresError: ``--teacher`` names none that fits.
        """
        config = run.config
        own = config.teacher if isinstance(config, Distill) else None
        if self.given:
            teacher = self._frozen(run, self.given)
            known = (run.document.get("teacher") or {}).get("sha256")
            if known != weights_sha256(teacher.encoder):
                run.notes.append(f"{teacher.name} is shown beside the run, which did not learn from it.")
            return teacher
        if own is None or not isinstance(config, Distill):
            return None
        if own == IN_MEMORY:
            why = "came from Python and was not saved"
        elif not Path(own).exists():
            why = f"is not at {own}"
        else:
            try:
                teacher = self._frozen(run, own, plain=config if config.teacher_name else None)
                if not config.teacher_name or run.document["teacher"]["sha256"] == weights_sha256(teacher.encoder):
                    return teacher
                why = "is a plain checkpoint, and it or the training images that it is normalised by have changed"
            except CrossresError as error:
                why = f"cannot be used ({error})"
        run.notes.append(f"The run's teacher {why}: the page shows the student alone. --teacher names one.")
        return None

    def _plain(self, config: Distill, hr_size: int) -> Encoder:
        task = FaceTask(config) if isinstance(config, Faces) else Classification()
        return plain_teacher(config, task.images(config, self.progress)[0], hr_size)

    def _frozen(self, run: Run, path: str, plain: Distill | None = None) -> Teacher:
        classes, fit = run.student.classes, run.config.images.fit
        wanted = getattr(run.config, "onnx_input", OnnxInput())

        def read() -> Teacher:
            if plain:
                found = self._plain(plain, run.hr_size)
            else:
                found = read_teacher(path, wanted, trust_code=self.trust_code)
            # a face teacher's own people do not matter
            other = isinstance(run.config, Faces) and set(found.classes) != set(classes)
            found = frozen_teacher(found, () if other else classes, f"the teacher {path}", may_know_more=True)
            found = found.to(run.device.torch)
            # it is judged as it taught: on the run's high resolution
            found.info |= {"hr_size": run.hr_size, "lr_size": run.hr_size, "fit": fit}
            teacher, test = Teacher(found, path), self._test(run)
            for images in (test.images, test.val):
                if teacher.stored and images is not None:
                    stored_outputs(found, images, run.device.torch)  # refuses what it does not know
            return teacher

        checkpoint = (plain.teacher_name, _images_asked(plain)) if plain else None
        return self.once(("teacher", path, checkpoint, classes, repr(wanted), run.hr_size, fit), read)


def _images_asked(config: Teach) -> str:
    """Return what decides which images a run reads."""
    tree = to_dict(config)
    parts = ("data", "images", "pairs", "val_pairs", "unlabelled")
    return json.dumps([type(config).__name__, tree["train"]["val_fraction"], *(tree.get(part) for part in parts)])
