"""``crossres enroll``, ``identify`` and ``verify``: parse, call, print; none needs torch for an ONNX file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crossres.commands.parser import CommandParser
from crossres.core.errors import CrossresError
from crossres.deploy.gallery import Gallery, Model, Threshold, check_similarity, model_of, people_in, unit
from crossres.deploy.gallery_file import alone
from crossres.deploy.index import Floats
from crossres.deploy.photos import photos_below
from crossres.deploy.recognizer import Answer, Recognizer


def _parser(command: str, description: str) -> CommandParser:
    parser = CommandParser(prog=f"crossres {command}", description=description)
    parser.add_argument("--model", help="an ONNX file of crossres export, a run's or model's folder, a Hub name")
    parser.add_argument(
        "--same_space", action="store_true", help="the model shares the gallery's space, although no record says so"
    )
    parser.add_argument(
        "--onnx_input", default="", help="what an ONNX file of others expects, e.g. highest=1,colours=bgr"
    )
    parser.add_argument("--trust_code", action="store_true", help="import the code that the model names")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    return parser


def enroll_command(words: list[str]) -> None:
    """``crossres enroll``."""
    parser = _parser(
        "enroll", "Put people or classes into a gallery, take them out, and set its thresholds on photos of your own."
    )
    parser.add_argument("gallery", help="file of the gallery; made if there is none")
    parser.add_argument(
        "people", nargs="?", help="a folder of a folder of images for each identity, or of an image for each"
    )
    parser.add_argument(
        "--flat", action="store_true", help="take the images in PEOPLE itself, not those in its folders"
    )
    parser.add_argument("--all", action="store_true", help="take photos too whose embedding is not to be trusted")
    parser.add_argument("--remove", action="append", default=[], metavar="NAME", help="take an identity out first")
    parser.add_argument("--index", choices=["exact", "hnsw", "ivf"], help="how it is searched; exact if new")
    parser.add_argument("--strangers", help="folder of photos of nobody in the gallery, like the probes to come")
    parser.add_argument("--fpir", type=float, default=0.01, help="share of strangers for whom somebody may be found")
    parser.add_argument("--pairs", help="list of pairs for the threshold of verify: LFW's text format or CSV")
    parser.add_argument("--images", help="folder of the images that --pairs names")
    parser.add_argument("--far", type=float, default=0.001, help="share of impostor pairs that may be accepted")
    chosen = parser.parse_intermixed_args(words)
    reads = bool(chosen.people or chosen.strangers or chosen.pairs)
    if not (reads or chosen.remove or chosen.index):
        raise CrossresError("nothing to do; give PEOPLE, --remove, --strangers, --pairs or --index")
    if bool(chosen.pairs) != bool(chosen.images):
        raise CrossresError("--pairs and --images belong together: a list, and the folder of its images")
    for option in ("fpir", "far"):
        if not 0 <= getattr(chosen, option) <= 1:
            raise CrossresError(f"--{option}: a share within 0..1, got {getattr(chosen, option):g}")
    document, notes = _enrolled(chosen, _Photos(chosen) if reads else None)
    new = sum(document["added"].values())
    text = [
        f"{chosen.gallery}: {document['identities']:,} identities, {document['embeddings']:,} embeddings, {new:,} new"
    ]
    for kind in ("threshold", "pair_threshold"):
        if document[kind]:
            text.append(f"{kind.replace('_', ' ')} {document[kind]['similarity']:.4f}")
    _tell(chosen.json, document, text, notes)


def _enrolled(chosen: argparse.Namespace, photos: _Photos | None) -> tuple[dict[str, Any], list[str | None]]:
    """Change the gallery; return what it is then, and what there is to say of it."""
    path = Path(chosen.gallery)
    if path.exists() or photos is None:
        _admit(Gallery.load(path), photos)
    people = people_in(Path(chosen.people), flat=chosen.flat) if chosen.people else []
    rows = photos.embeddings([photo for _, photo in people]) if photos else []
    strangers = photos.strangers(Path(chosen.strangers)) if photos and chosen.strangers else None
    pairs = photos.pairs(chosen.pairs, Path(chosen.images)) if photos and chosen.pairs else None
    left_out = photos.left_out if photos else []
    notes: list[str | None] = [f"{one['photo']}: left out: {one['why']}" for one in left_out]
    if people and all(row is None for row in rows):
        raise CrossresError(
            f"{chosen.people}: none of {len(rows)} photos can be taken, the first: {left_out[0]['why']}"
        )
    # the photos are embedded before: others wait no longer than it takes to write
    with alone(path):
        if path.exists() or photos is None:
            gallery = Gallery.load(path)
        else:
            gallery = Gallery(photos.recognizer.facts.embedding_dim, model=photos.model)
        model = _admit(gallery, photos)
        gallery.index = chosen.index or gallery.index
        for name in chosen.remove:
            gallery.remove(name)
        added: dict[str, int] = {}
        for (name, _), row in zip(people, rows, strict=True):
            if row is not None:
                added[name] = added.get(name, 0) + gallery.add(name, row)
        if strangers is not None:
            notes.append(_unsure(gallery.calibrate(strangers, chosen.fpir, model), "strangers"))
        if pairs is not None:
            notes.append(_unsure(gallery.calibrate_pairs(*pairs, chosen.far, model), "impostor pairs"))
        gallery.save(path)
    document = {
        "gallery": chosen.gallery,
        "identities": len(gallery),
        "embeddings": gallery.embeddings,
        "added": added,
        "removed": chosen.remove,
        "left_out": left_out,
        "threshold": gallery.threshold and asdict(gallery.threshold),
        "pair_threshold": gallery.pair_threshold and asdict(gallery.pair_threshold),
        "outgrown": gallery.outgrown,
    }
    return document, [*notes, _outgrown(gallery)]


def identify_command(words: list[str]) -> None:
    """``crossres identify``."""
    parser = _parser("identify", "Who of a gallery is on these photos, or nobody.")
    parser.add_argument("gallery", help="file of crossres enroll")
    parser.add_argument("photos", nargs="+", help="image files, or folders of them")
    parser.add_argument("-k", type=int, default=1, help="how many identities to name for each photo")
    chosen = parser.parse_intermixed_args(words)
    if chosen.k < 1:
        raise CrossresError("-k: at least 1 identity")
    gallery, photos = Gallery.load(chosen.gallery), _Photos(chosen)
    _admit(gallery, photos)
    answers = photos.recognizer.predict(chosen.photos)
    rows = [answer.embedding for answer in answers if answer.embedding is not None]
    if not rows:
        raise CrossresError(f"none of {len(answers)} photos could be read, the first: {_why(answers[0])}")
    found = iter(gallery.search(np.stack(rows), chosen.k))
    threshold, note = _usable(gallery.threshold, photos, f"{chosen.gallery} --strangers FOLDER")
    documents, text = [], []
    for answer in answers:
        matches = next(found) if answer.embedding is not None else []
        known = bool(matches) and threshold is not None and matches[0].similarity >= threshold.similarity
        documents.append(
            {
                "photo": answer.name,
                "name": matches[0].name if known else None,
                "nearest": [asdict(match) for match in matches],
                "flags": list(answer.flags),
                "error": answer.error,
            }
        )
        said = ", ".join(f"{match.name} {match.similarity:.4f}" for match in matches)
        if threshold is not None:
            said = f"{'' if known else 'nobody, nearest '}{said} (threshold {threshold.similarity:.4f})"
        text.append(f"{answer.name}: {f'not read: {_why(answer)}' if answer.error else said + _marks(answer)}")
    document = {
        "gallery": chosen.gallery,
        "threshold": threshold and asdict(threshold),
        "outgrown": gallery.outgrown,
        "photos": documents,
    }
    _tell(chosen.json, document, text, [note, _outgrown(gallery)])


def verify_command(words: list[str]) -> None:
    """``crossres verify``."""
    parser = _parser("verify", "Do two photos show the same?")
    parser.add_argument("photos", nargs=2, help="two image files")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--gallery", help="file of crossres enroll with a threshold of pairs")
    source.add_argument("--threshold", type=float, help="similarity at or above which two photos show the same")
    chosen = parser.parse_intermixed_args(words)
    threshold, note = chosen.threshold, None
    if threshold is not None:
        check_similarity(threshold)
    photos = _Photos(chosen)
    if chosen.gallery:
        gallery = Gallery.load(chosen.gallery)
        _admit(gallery, photos)
        enrolled, note = _usable(gallery.pair_threshold, photos, f"{chosen.gallery} --pairs FILE --images FOLDER")
        threshold = enrolled and enrolled.similarity
    elif threshold is None:
        note = "no threshold is given; crossres enroll GALLERY --pairs FILE --images FOLDER finds one for --gallery"
    answers = photos.recognizer.predict(chosen.photos)
    for answer in answers:
        if answer.error:
            raise CrossresError(answer.error)
    left, right = (unit(answer.embedding, answer.name)[0] for answer in answers if answer.embedding is not None)
    similarity = float(left.astype(np.float64) @ right)
    same = None if threshold is None else similarity >= threshold
    document = {
        "photos": [{"photo": answer.name, "flags": list(answer.flags)} for answer in answers],
        "similarity": similarity,
        "threshold": threshold,
        "same": same,
    }
    said = "" if same is None else f": {'same' if same else 'not the same'} (threshold {threshold:.4f})"
    flagged = [f"{answer.name}{_marks(answer)}" for answer in answers if answer.flags]
    _tell(chosen.json, document, [f"similarity {similarity:.4f}{said}", *flagged], [note])


class _Photos:
    """Photos, read by the model that a command names; those that are left out are listed with the reason."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        if not chosen.model:
            raise CrossresError("--model: say which model reads the photos")
        self.path: str = chosen.model
        self.recognizer = Recognizer.load(chosen.model, trust_code=chosen.trust_code, onnx_input=chosen.onnx_input)
        self.model = model_of(self.recognizer)
        self.same_space: bool = chosen.same_space
        self.flagged_too: bool = getattr(chosen, "all", False)
        self.left_out: list[dict[str, str]] = []

    def embeddings(self, photos: Iterable[Path]) -> list[Floats | None]:
        """Return each photo's embedding, (d,); None for one that is left out."""
        rows = []
        for answer in self.recognizer.stream(photos):
            out = answer.error is not None or (bool(answer.flags) and not self.flagged_too)
            if out:
                self.left_out.append({"photo": answer.name, "why": _why(answer)})
            rows.append(None if out else answer.embedding)
        return rows

    def strangers(self, folder: Path) -> Floats:
        """Return the embeddings of the photos in a folder and below it, (S, d)."""
        rows = [row for row in self.embeddings(photos_below(folder)) if row is not None]
        if not rows:
            raise CrossresError(f"{folder}: there is no photo of a stranger in it that can be taken")
        return np.stack(rows)

    def pairs(self, path: str, folder: Path) -> tuple[Any, Any]:
        """Return the similarity of each listed pair whose photos can be taken, and whether it shows one identity."""
        from crossres.data.folder import read_loose
        from crossres.data.images import ImageSet
        from crossres.data.pairs import read_pairs

        files = read_loose(folder)[0]
        pairs = read_pairs(path, ImageSet(files, np.zeros(len(files), np.int64), ["?"], str(folder)))
        needed = np.unique(np.concatenate([pairs.left, pairs.right])).tolist()
        rows = self.embeddings([folder / files.path(i) for i in needed])
        known = {i: unit(row, files.path(i))[0] for i, row in zip(needed, rows, strict=True) if row is not None}
        kept = [i for i, two in enumerate(zip(pairs.left, pairs.right, strict=True)) if known.keys() >= set(two)]
        similarity = [float(known[pairs.left[i]].astype(np.float64) @ known[pairs.right[i]]) for i in kept]
        return np.array(similarity), pairs.same[kept]


def _admit(gallery: Gallery, photos: _Photos | None) -> Model | None:
    """Return the model of the photos; refused where the gallery holds embeddings of another space."""
    if photos is None:
        return None
    gallery.demand_shared(photos.model, photos.recognizer.facts.embedding_dim, same_space=photos.same_space)
    return photos.model


def _usable(threshold: Threshold | None, photos: _Photos, options: str) -> tuple[Threshold | None, str | None]:
    """Return the threshold where it holds for such photos, else None and a line that says how to get one."""
    how = f"crossres enroll {options} --model {photos.path} sets one"
    if threshold is None:
        return None, f"no threshold is set, so similarities only; {how}"
    if threshold.model not in (None, photos.model.digest):
        return None, f"the threshold is of photos read by another model, so similarities only; {how}"
    return threshold, None


def _outgrown(gallery: Gallery) -> str | None:
    if gallery.threshold is None or not gallery.outgrown:
        return None
    return (
        f"the threshold was set with {gallery.threshold.identities:,} identities and there are {len(gallery):,} now; "
        "set it again with enroll --strangers"
    )


def _unsure(threshold: Threshold, what: str) -> str | None:
    few = f"{threshold.count:,} {what} are too few to know a rate of {threshold.rate:g}: "
    return f"{few}fewer than ten false matches are expected" if threshold.too_few else None


def _why(answer: Answer) -> str:
    return answer.error.removeprefix(f"{answer.name}: ") if answer.error else "; ".join(answer.flags)


def _marks(answer: Answer) -> str:
    return "".join(f" [{flag}]" for flag in answer.flags)


def _tell(as_json: bool, document: dict[str, Any], text: list[str], notes: Iterable[str | None]) -> None:
    def show(line: str, file: Any) -> None:
        # a file's name may be no UTF-8
        print(line.encode(errors="backslashreplace").decode(), file=file)

    for note in notes:
        if note:
            show(note, sys.stderr)
    for line in [json.dumps(document)] if as_json else text:
        show(line, sys.stdout)
