"""Render docs/methods/ from the docstrings of the losses and their measured step cost; nothing is typed by hand."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from crossres.bench.grid import read_grid
from crossres.config.methods import METHODS
from crossres.core.files import write_atomically
from crossres.losses import LOSSES
from crossres.losses.options import loss_options, reads

GRID = Path("recipes/cifar100/methods-8x8.yaml")
#: A page for each kind of outputs that losses read.
FAMILIES = {
    "logits": "Losses on the classifier's answers",
    "embedding": "Losses on embeddings: samples, their relations, their contrast",
    "features": "Losses on feature maps",
}


def page(title: str, names: list[str], costs: dict[str, dict[int, float]]) -> str:
    """One family."""
    parts = [f"# {title}", "Rendered by `make tables` from the docstrings in `src/crossres/losses/`."]
    for name in names:
        parts += [f"## `{name}`", body(name), options(name), cost(name, costs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def body(name: str) -> str:
    """The docstring up to its arguments, as Markdown with formulas."""
    text = re.split(r"\n(?:Args|Shapes|Raises):\n", inspect.cleandoc(LOSSES[name].__doc__ or ""))[0]
    text = re.sub(r"\.\. math:: (.+)", r".. math::\n    \1", text)

    def formula(match: re.Match[str]) -> str:
        lines = " ".join(inspect.cleandoc(match[1]).split("\n"))
        blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", inspect.cleandoc(match[1]))]
        return "\n\n".join(f"$$\n{block}\n$$" for block in blocks if block) if lines else ""

    text = re.sub(r"\.\. math::\n((?:[ ]{4}.*\n?|\n)+)", lambda match: formula(match) + "\n\n", text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":class:`([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def options(name: str) -> str:
    """Each keyword with its default and what the docstring says of it."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in loss_options(name):
        meaning = option.help.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{option.name}` | {option.default} | {meaning} |")
    return "\n".join(lines) if len(lines) > 2 else "No options."


@cache
def compared() -> dict[str, Any]:
    """The grid's methods, read once."""
    return read_grid(GRID).methods


def cost(name: str, costs: dict[str, dict[int, float]]) -> str:
    """The step of the grid's methods that use the loss."""
    lines = []
    for method, given in compared().items():
        named = given if isinstance(given, str) else given.get("method")
        losses = METHODS[named] if named else {loss: o or {} for loss, o in given.items() if loss != "options"}
        if method in costs and list(losses)[-1] == name and len(losses) <= 2:
            ratios = ", ".join(f"{ratio:.2f} at {size}x{size}" for size, ratio in sorted(costs[method].items()))
            weights = ", ".join(f"`{loss}` {options.get('weight', 1):g}" for loss, options in losses.items())
            lines.append(f"Measured cost of a step, in steps of labels alone: {ratios} (weights {weights}).")
    return "\n\n".join(lines[:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    chosen = parser.parse_args()
    costs: dict[str, dict[int, float]] = {}
    for row in json.loads(Path("results/bench/steps.json").read_text()):
        costs.setdefault(row["method"], {})[row["lr_size"]] = row["ratio_to_ce"]
    for family, title in FAMILIES.items():
        names = [name for name in LOSSES if reads(name) == family]
        path = Path("docs/methods") / f"{family}.md"
        text = page(title, names, costs)
        if chosen.check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path} is out of date: make tables")
        if not chosen.check:
            write_atomically(path, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    main()
