"""``crossres methods``: the methods by name, with their losses, measured accuracy and step cost."""

import json
import textwrap
from importlib.resources import files
from typing import Any

from crossres.commands.parsing import Request
from crossres.commands.printing import show_json
from crossres.config.judging import Methods
from crossres.config.methods import FACE_METHODS, METHODS, Losses


def run(_: Methods, request: Request) -> None:
    """Print the methods, as a table or as one document."""
    document = methods()
    if request.json:
        show_json(document)
        return
    columns = document["columns"]
    heads = "".join(f"{column.replace(' classes', ''):>12}" for column in columns)
    width = 2 + max(map(len, [*document["methods"], *document["face_methods"]]))
    print(f"{'method':{width}}{heads}  step  losses")
    for name, method in document["methods"].items():
        top1 = "".join(f"{_number(method['top1'].get(column)):>12}" for column in columns)
        print(f"{name:{width}}{top1}{_number(method['step_cost']):>6}  {described(method['losses'])}")
    print("\nof faces:")
    for name, method in document["face_methods"].items():
        print(f"{name:{width}}{described(method['losses'])}")
    about = f"{document['about']} The columns are the side of the LR images and how many classes they are of."
    print("\n".join(["", *textwrap.wrap(about, 100)]))
    print(
        "In brackets: options of a loss, which crossres distill --help all explains.\n"
        "crossres distill --method NAME; default: crrcd with a teacher (crrcd-images without its maps), else labels"
    )


def methods() -> dict[str, Any]:
    """Return the methods by name as one document.

    Returns:
        ``{about, columns, methods: {name: {losses, top1, seeds, step_cost}}, face_methods: {name: {losses}}}``:
        top1 in percent and the number of its seeds by column, where measured; step_cost in steps of labels alone.
    """
    document: dict[str, Any] = json.loads(files("crossres.config").joinpath("measured.json").read_text())
    measured = document["methods"]
    unmeasured: dict[str, Any] = {"top1": {}, "seeds": {}, "step_cost": None}
    document["methods"] = {
        name: {"losses": losses, **measured.get(name, unmeasured)} for name, losses in METHODS.items()
    }
    return document | {"face_methods": {name: {"losses": losses} for name, losses in FACE_METHODS.items()}}


def described(losses: Losses) -> str:
    """Write losses with their weights and options in one line."""
    terms = []
    for loss, options in losses.items():
        given = [
            key if value is True else f"{key} {_plain(value)}" for key, value in options.items() if key != "weight"
        ]
        terms.append(f"{loss} {_plain(options['weight'])}" + (f" ({', '.join(given)})" if given else ""))
    return " + ".join(terms)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
