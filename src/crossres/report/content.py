"""What a report is made from: finished runs and, each computed once, the images, teachers and outputs they share."""

import json
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from crossres.config.check import demand_trust
from crossres.config.experiment import IN_MEMORY, Distill, Experiment
from crossres.config.judging import Evaluate, Report
from crossres.config.options import TestImages
from crossres.config.record import base_name, to_dict
from crossres.core.devices import resolve_device
from crossres.core.errors import CrossresError, demand_file
from crossres.core.files import read_json
from crossres.core.progress import Progress
from crossres.core.types import Outputs
from crossres.data.degradation import Degradation, Size
from crossres.data.faces import first_image_search
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.face_protocols import FaceTest
from crossres.evaluation.prepare import batch_outputs, degradation_of, loader_of, read_run_on, read_split, sizes_of
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained
from crossres.models.ready import READY
from crossres.models.teachers import StoredBackbone, frozen_teacher, read_teacher, stored_outputs
from crossres.models.weights import weights_sha256
from crossres.training.faces import FaceTask
from crossres.training.networks import build_teacher
from crossres.training.run import TASKS

#: Errors shown on a page, all runs together: some 10 kB each.
PICTURES = 150
Value = TypeVar("Value")


class Shared:
    """What the runs of a report share: its options, and what is computed once for all of them."""

    def __init__(self, options: Report, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        #: errors of a run that are shown
        self.shown = min(options.images, max(3, PICTURES // len(options.runs)))
        self._computed: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return what was computed for this key, or compute it."""
        if key not in self._computed:
            self._computed[key] = compute()
        return cast(Value, self._computed[key])


class FinishedRun:
    """A finished run in a folder (else CrossresError), and what it is judged on and compared with.

    Attributes:
        config: its options, with the report's ``data`` where that is given.
        document: its result.json; ``epochs``: a row of metrics.jsonl an epoch.
        student: the network it trained, on the ``device`` and run in the precision of its training.
        notes: what a reader has to know of the report on it.
        judgement: options of evaluations.
        at_hr, at_lr: its sizes in words.
        taught_by: the name of the teacher it learned from, empty without one.
    """

    def __init__(self, folder: Path, name: str, shared: Shared) -> None:
        self.folder, self.name, self.shared = folder, name, shared
        self.notes: list[str] = []
        options = shared.options
        self.config: Experiment = read_run_on(folder, options.data)
        try:
            self.document: dict[str, Any] = read_json(folder / "result.json")
        except CrossresError:
            remedy = f"finish it first: {self.config.command} --resume {folder}"
            raise CrossresError(f"{folder} has no readable result.json; {remedy}") from None
        try:
            demand_file(folder / "metrics.jsonl")
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            self.epochs: list[dict[str, Any]] = [{**json.loads(line)} for line in lines if line.strip()]
        except (CrossresError, OSError, TypeError, ValueError):
            self.epochs = []
            self.notes.append("The run's folder has no readable metrics.jsonl, so the page has no learning curves.")
        memory = TestImages(memory_mb=self.config.images.memory_mb)
        self.judgement = Evaluate(model=str(folder), data=self.config.data, images=memory)
        student = from_pretrained(folder, trust_code=options.trust_code)
        self.device = resolve_device(options.device, student.info.get("precision", "float32"))
        self.student = student.to(self.device.torch)
        self.hr_size, self.low, self.side = sizes_of(student)
        self.lr_size: Size = self.side if self.low == self.side else (self.low, self.side)
        self.at_hr = f"{self.hr_size}x{self.hr_size}"
        self.at_lr = f"{self.side}x{self.side}" if self.low == self.side else f"{self.low} to {self.side} pixels"
        self.degradation = degradation_of(self.judgement, student)
        self.onnx_input = self.config.distillation.onnx_input if self.config.distillation else OnnxInput()
        teacher = self.document.get("teacher")
        self.taught_by = base_name(teacher.get("file") or teacher["name"]) if teacher else ""

    @property
    def test(self) -> FaceTest:
        """What it is judged on: images; of faces also pairs, who is searched for and what chooses the threshold."""

        def read() -> FaceTest:
            config = self.config
            if not config.faces:
                return FaceTest(read_split(config, "test"))
            task = FaceTask(config)
            _, val, images, *_ = task.images(self.shared.progress)
            search = first_image_search(images) if images.class_counts.max() > 1 else None
            chooser = (val, task.val_pairs) if val and task.val_pairs else None
            return FaceTest(images, task.test_pairs, search, chooser)

        return self.shared.once(("test", self._image_options), read)

    @property
    def _image_options(self) -> str:
        """What decides which images are read."""
        tree = to_dict(self.config)
        names = ("data", "images", "pairs", "val_pairs", "unlabelled")
        return json.dumps([self.config.command, tree["train"]["val_fraction"], *(tree.get(name) for name in names)])

    @cached_property
    def teacher(self) -> Encoder | None:
        """Its teacher, frozen, on the device, its classes in the student's order; None, with a note, without one.

        CrossresError: the report's teacher does not fit.
        """
        digest = (self.document.get("teacher") or {}).get("sha256")
        if path := self.shared.options.teacher:
            teacher = self._read_teacher(path)
            if digest != weights_sha256(teacher):
                name = teacher.architecture.get("file") or teacher.architecture.get("name") or base_name(path)
                self.notes.append(f"{name} is shown beside the run, which did not learn from it.")
            return teacher
        distillation = self.config.distillation
        if distillation is None or distillation.teacher is None:
            return None
        path, plain = distillation.teacher, distillation.teacher_name
        if path == IN_MEMORY:
            reason = "came from Python and was not saved"
        elif path not in READY and not Path(path).exists():
            reason = f"is not at {path}"
        else:
            try:
                teacher = self._read_teacher(path, plain)
                if not plain or digest == weights_sha256(teacher):
                    return teacher
                reason = "is a plain checkpoint, and it or the training images that it is normalised by have changed"
            except CrossresError as error:
                reason = f"cannot be used ({error})"
        self.notes.append(f"The run's teacher {reason}: the page shows the student alone. --teacher names one.")
        return None

    def _read_teacher(self, path: str, plain: str | None = None) -> Encoder:
        """Read a saved model, or a network named ``plain`` with the weights of a checkpoint."""
        config, classes, shared = self.config, self.student.classes, self.shared

        def read() -> Encoder:
            if plain:
                demand_trust(config, self.name, shared.options.trust_code)
                # its normalisation is that of the run's HR images, which natural ones without labels do not change
                own = config
                if isinstance(config, Distill) and config.natural_labels:
                    own = replace(config, natural=None, natural_labels=None)
                images = TASKS[config.task](own).images(shared.progress).train
                teacher = build_teacher(config, None, images, images.classes, self.hr_size, shared.progress)
                assert teacher is not None
            else:
                teacher = read_teacher(path, self.onnx_input, trust_code=shared.options.trust_code)
            # a face teacher's own people do not matter
            other = config.faces is not None and set(teacher.classes) != set(classes)
            teacher = frozen_teacher(teacher, () if other else classes, f"the teacher {path}", may_know_more=True)
            # it is judged as it taught: on the run's high resolution
            teacher.info |= {"hr_size": self.hr_size, "lr_size": self.hr_size, "fit": config.images.fit, "path": path}
            if isinstance(teacher.backbone, StoredBackbone):
                for images in [self.test.images, *(self.test.chooser or ())[:1]]:
                    stored_outputs(teacher, images, self.device.torch)  # refuses images without an embedding
            return teacher.to(self.device.torch)

        tree = to_dict(config)  # natural images that are labelled decide which HR images normalise a checkpoint
        checkpoint = (plain, self._image_options, tree.get("natural"), tree.get("natural_labels")) if plain else None
        key = ("teacher", path, checkpoint, classes, repr(self.onnx_input), self.hr_size, config.images.fit)
        return shared.once(key, read)

    @property
    def gallery(self) -> Encoder | None:
        """The report's model for the HR side of faces; None without one."""
        path, code = self.shared.options.gallery, self.shared.options.trust_code
        key = ("gallery", repr(self.onnx_input))
        return self.shared.once(key, lambda: read_teacher(path, self.onnx_input, trust_code=code) if path else None)

    def loader(self, images: ImageSet) -> Loader:
        """Return a loader of some images, decoded once for all runs, at the run's low resolution."""
        key = ("loader", id(images), self.hr_size, self.config.images.fit)
        loader = self.shared.once(key, lambda: loader_of(self.judgement, self.student, images, self.device))
        return loader.at(self.lr_size, self.degradation)

    def outputs(self, images: ImageSet) -> dict[str, Outputs]:
        """Return embeddings (N, d) and logits (N, C; None without classes) of student and teacher, on the CPU."""
        outputs = {"student": self._outputs(self.student, self.loader(images))}
        if teacher := self.teacher:
            key = ("outputs", id(teacher), id(images), self.device.precision)
            at_hr = self.loader(images).at(self.hr_size, Degradation())
            outputs["teacher"] = self.shared.once(key, lambda: self._outputs(teacher, at_hr))
        return outputs

    def enlarged(self, images: ImageSet) -> Outputs | None:
        """Return what the teacher makes of the images at the run's low resolution; it enlarges them itself.

        None without a teacher that reads images, or where both resolutions are one.
        """
        teacher = self.teacher
        if teacher is None or isinstance(teacher.backbone, StoredBackbone) or self.lr_size == self.hr_size:
            return None
        key = ("enlarged", id(teacher), id(images), self.lr_size, self.degradation, self.device.precision)
        return self.shared.once(key, lambda: self._outputs(teacher, self.loader(images)))

    def _outputs(self, encoder: Encoder, loader: Loader) -> Outputs:
        if isinstance(encoder.backbone, StoredBackbone):
            cache = stored_outputs(encoder, loader.images, self.device.torch)
            return Outputs(cache.embeddings(len(loader.images)).cpu())
        batches = list(batch_outputs(encoder, loader, self.device.autocast))
        logits = [batch.logits.float().cpu() for batch in batches if batch.logits is not None]
        embedding = torch.cat([batch.embedding.float().cpu() for batch in batches])
        return Outputs(embedding, torch.cat(logits) if logits else None)
