"""Build a ready model: train it by its recipe, export it as int8, judge the file and write its card.

    CROSSRES_DATA=DATA python benchmarks/zoo.py NAME [--runs FOLDER]

A run that is in FOLDER already is not trained again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossres.config.deployment import Export
from crossres.config.experiment import Distill, Faces, Teach
from crossres.config.reading import read, read_run
from crossres.config.yaml_file import load_yaml
from crossres.core.files import read_json, write_json
from crossres.core.progress import Progress
from crossres.core.types import Texts
from crossres.data.images import ImageSet
from crossres.data.readers import read as read_images
from crossres.deploy.export import export
from crossres.deploy.recognizer import Recognizer
from crossres.evaluation.statistics import interval, resampled_shares, wilson
from crossres.evaluation.verification import best_threshold, similarities
from crossres.models.zoo import FOLDER
from crossres.training.faces import FaceTask
from crossres.training.run import train

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes/models"
#: Of the runs, a file each.
RESULTS = ROOT / "results/models"
DATA = Path(os.environ.get("CROSSRES_DATA", "."))
#: Share of validation photos below the quality that a face model's card names as a limit.
POOR = 0.1


@dataclass(frozen=True)
class Ready:
    """What no file of a run says of a ready model.

    Attributes:
        about: in a line.
        folder: of the data below CROSSRES_DATA.
        data: their name and source.
        licence: of the data.
        expects: what has to be seen on a photo, and how large.
        not_for: what it must not be used for.
        teacher: of faces, an ONNX file beside CROSSRES_DATA.
        teacher_recipe: of objects, that of the teacher which the model's recipe names.
        natural: folders of further test images, by what they are; read as they are.
    """

    about: str
    folder: str
    data: str
    licence: str
    expects: str
    not_for: str
    teacher: str | None = None
    teacher_recipe: str | None = None
    natural: dict[str, str] | None = None


LFW = {
    "folder": "lfw",
    "data": "Labeled Faces in the Wild, training part of View 1 (Huang et al. 2007)",
    "licence": "none stated; published for research, photos of public figures from the news",
    "expects": (
        "a face that fills the picture, eyes, nose and mouth at the places of insightface's template (enroll --align "
        "and faces evaluate --align cut large photos so); cut more loosely, far more pairs of two people pass for one"
    ),
    "not_for": (
        "naming or watching people without their consent, or deciding about anyone: it errs as measured, and "
        "was judged on photos that show few women, children, old people, and few of many ethnic groups"
    ),
    "teacher": "models/sface.onnx",
}
CIFAR100 = {
    "folder": "cifar100",
    "data": "CIFAR-100 (Krizhevsky 2009), training part",
    "licence": "none stated; published for research, its images were collected from the web",
    "expects": "one object that fills the picture",
    "not_for": (
        "decisions about people (man, woman, boy, girl and baby are among the classes), or anything that is at "
        "stake: a photo of none of the classes gets the name of one"
    ),
}
GTSRB = {
    "folder": "gtsrb/near",
    "data": "German Traffic Sign Recognition Benchmark (Stallkamp et al. 2011), near frames, whole tracks held out",
    "licence": "none stated with the images; published for a competition and for research",
    "expects": "one sign that fills the picture",
    "not_for": "driving: signs of other countries, of other kinds or none at all get the name of one of the classes",
    "teacher_recipe": "recipes/signs/teacher.yaml",
    "natural": {"far frames, as the camera gave them": "gtsrb/far"},
}
MODELS = {
    "signs-16": Ready("German traffic signs of 43 classes at 16x16", **GTSRB),
    "faces-8": Ready("faces at 8x8, in the space of SFace", **LFW),
    "faces-16": Ready("faces at 16x16, in the space of SFace", **LFW),
    "faces-16-free": Ready("faces at 16x16, in a space of its own", **LFW),
    "objects-8": Ready("objects of 100 classes at 8x8", **CIFAR100),
    "objects-16": Ready("objects of 100 classes at 16x16", **CIFAR100),
}


def trained(name: str, ready: Ready, runs: Path) -> Path:
    """Return the folder of the model's run, trained where it is not there yet."""
    folder = runs / name
    if not (folder / "result.json").exists():
        tree = load_yaml(RECIPES / f"{name}.yaml")
        tree |= {"data": str(DATA / ready.folder), "runs": str(runs)}
        if ready.teacher:
            tree |= {"teacher": str(DATA.parent / ready.teacher), "pairs": str(DATA / "lfw/pairsDevTest.txt")}
        if ready.teacher_recipe:
            taught = {"data": tree["data"], "runs": str(Path(tree["teacher"]).parent)}
            if not (Path(tree["teacher"]) / "result.json").exists():
                train(read(Teach, load_yaml(ROOT / ready.teacher_recipe) | taught))
        train(read(Faces if ready.teacher else Distill, tree))
    return folder


def shares(right: dict[str, tuple[np.ndarray[Any, Any], Texts | None]]) -> list[dict[str, Any]]:
    """Return rows of a card: the share of what is right in percent, and its 95 % interval.

    Of independent images it is Wilson's; of images of groups, such as tracks, that of resampled groups.
    """
    rows = []
    for measure, (hits, groups) in right.items():
        if groups is None:
            low, high = wilson(int(hits.sum()), len(hits))
        else:
            ((low, high),) = interval([[100 * share] for share in resampled_shares(hits, groups)])
        row = {"measure": measure, "value": 100 * float(hits.mean()), "low": low, "high": high}
        rows.append(row | {"count": len(hits)})
    return rows


def hits(recognizer: Recognizer, images: ImageSet) -> np.ndarray[Any, Any]:
    """Return whether the model names each image rightly, bool (N,)."""
    answers = recognizer.stream(images.image(i) for i in range(len(images)))
    truth = [images.classes[label] for label in images.labels]
    return np.array([answer.label == name for answer, name in zip(answers, truth, strict=True)])


def measured_objects(recognizer: Recognizer, run: Path, ready: Ready) -> list[dict[str, Any]]:
    """Return top-1 on the run's test images, shrunk, and on natural ones."""
    config, side = read_run(run), recognizer.facts.side
    how = {"label_column": config.images.label_column, "group": config.images.group}
    sets = {f"test images, shrunk to {side}x{side}": config.data}
    sets |= {what: str(DATA / folder) for what, folder in (ready.natural or {}).items()}
    read_from = {what: read_images(path, split="test", **how) for what, path in sets.items()}
    return shares(
        {f"top-1 on {what}": (hits(recognizer, images), images.groups) for what, images in read_from.items()}
    )


def measured_faces(recognizer: Recognizer, run: Path, ready: Ready) -> list[dict[str, Any]]:
    """Return what the model says of LFW's test pairs: both photos small, and against the teacher's embedding."""
    config = read_run(run)
    task = FaceTask(config)
    sets = task.images(Progress(quiet=True))
    assert sets.val is not None
    small = {name: embedded(images, recognizer) for name, images in (("val", sets.val), ("test", sets.test))}
    same, own, side = task.test_pairs.same, recognizer.facts.pairs, recognizer.facts.side
    length = {name: np.linalg.norm(rows, axis=1) for name, rows in small.items()}
    limit = float(f"{np.quantile(length['val'], POOR):.3g}")
    assert own

    def judged(gallery: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        chooses = similarities(gallery["val"], small["val"], task.val_pairs)
        alike = similarities(gallery["test"], small["test"], task.test_pairs)
        return (alike >= best_threshold(chooses, task.val_pairs.same)) == same

    alike = similarities(small["test"], small["test"], task.test_pairs)
    decent = length["test"] >= limit
    both, judged_small = decent[task.test_pairs.left] & decent[task.test_pairs.right], judged(small)
    right = {
        f"test pairs judged rightly, both {side}x{side}": judged_small,
        f"the same, both photos with a quality of {limit:g} or more (--min_quality)": judged_small[both],
    }
    for each in own:
        accepted = f"accepted at a false accept rate of {100 * each.rate:g} % (threshold {each.similarity:.2f})"
        right[f"of one person, {accepted}"] = (alike >= each.similarity)[same]
        right[f"of two people, {accepted}"] = (alike >= each.similarity)[~same]
    if "cosine" in config.terms:
        teacher = Recognizer.load(DATA.parent / (ready.teacher or ""))
        large = {name: embedded(images, teacher) for name, images in (("val", sets.val), ("test", sets.test))}
        right[f"test pairs judged rightly, {side}x{side} against SFace's 112x112"] = judged(large)
    return shares({measure: (hits, None) for measure, hits in right.items()})


def embedded(images: ImageSet, recognizer: Recognizer) -> np.ndarray[Any, Any]:
    """Return the embeddings (N, d) of images."""
    return recognizer.embed(images.image(i) for i in range(len(images)))


def drawn(recognizer: Recognizer) -> dict[str, dict[str, Any]]:
    """Return what the model makes of each picture that travels with it."""
    answers = recognizer.predict(sorted(FOLDER.glob("samples/*/*.png")))
    if recognizer.facts.classes:
        known = {answer.name: {"label": answer.label, "probability": answer.probability} for answer in answers}
    else:
        rows = np.stack([np.asarray(answer.embedding) for answer in answers])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        known = {answer.name: {"cosine": float(row @ rows[0])} for answer, row in zip(answers, rows, strict=True)}
    return {str(Path(name).relative_to(FOLDER / "samples")): facts for name, facts in known.items()}


def main() -> None:
    """Build one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--runs", type=Path, default=Path("runs/models"))
    options = parser.parse_args()
    name, ready = options.name, MODELS[options.name]
    run = trained(name, ready, options.runs)
    export(Export(model=str(run), precision="int8", out=str(FOLDER / f"{name}.onnx")))
    recognizer = Recognizer.load(FOLDER / f"{name}.onnx", threads=1)
    facts, result = recognizer.facts, read_json(run / "result.json")
    card = {
        "name": name,
        "about": ready.about,
        "task": facts.task,
        "lr_size": list(facts.lr_size),
        "classes": list(facts.classes),
        **{key: facts.about[key] for key in ("parameters", "multiply_adds")},
        "bytes": (FOLDER / f"{name}.onnx").stat().st_size,
        "data": ready.data,
        "images": result["images"],
        "licence": ready.licence,
        "expects": ready.expects,
        "teacher": facts.about["teacher"].get("file", facts.about["teacher"]["name"]),
        "recipe": f"recipes/models/{name}.yaml",
        "measured": (measured_faces if facts.task == "faces" else measured_objects)(recognizer, run, ready),
        "not_for": ready.not_for,
        "samples": drawn(recognizer),
    }
    write_json(FOLDER / f"{name}.json", card)
    write_json(RESULTS / f"{name}.json", result)


if __name__ == "__main__":
    main()
