"""The ready models: int8 ONNX files inside the package, each with a card of what was measured of it."""

from pathlib import Path
from typing import Any

from crossres.core.errors import CrossresError, nearest
from crossres.core.files import read_json

#: Where they lie: NAME.onnx and NAME.json, and pictures of our own drawing below samples/.
FOLDER = Path(__file__).with_name("zoo")


def names() -> list[str]:
    """Return the names of the ready models."""
    return sorted(path.stem for path in FOLDER.glob("*.onnx"))


def model_file(model: str | Path) -> str | Path:
    """Return the file of a ready model where that is meant: by its name, with nothing of this name in the folder."""
    name = str(model)
    return FOLDER / f"{name}.onnx" if name in names() and not Path(model).exists() else model


def hint(name: str) -> str:
    """Return how a message on an unknown name ends: the ready model nearest to it; nothing where none is near."""
    near = nearest(name, names())
    return f"{near} crossres models lists them" if near.endswith("?") else ""


def examples(name: str, count: int = 3) -> list[Path]:
    """Return pictures to try a ready model on: of those that it names rightly the ones it is surest of."""
    right = {
        path: facts["probability"]
        for path, facts in card(name)["samples"].items()
        if str(facts.get("label")).replace(" ", "_") == Path(path).stem
    }
    return [FOLDER / "samples" / path for path in sorted(right, key=lambda path: -right[path])[:count]]


def card(name: str) -> dict[str, Any]:
    """Return what is known of a ready model.

    Returns:
        name, about, task, lr_size, classes (their names), parameters, multiply_adds and bytes; data, images (how
        many of train, val and test), licence, expects, teacher and recipe; measured (of each number: measure, value,
        low and high in percent, count); not_for; and samples (of each picture below samples/: label and probability,
        or its embedding's cosine with the first).

    Raises:
        CrossresError: no such model.
    """
    if name not in names():
        raise CrossresError(f"no ready model '{name}'{hint(name) or '; crossres models lists them'}")
    document: dict[str, Any] = read_json(FOLDER / f"{name}.json")
    return document
