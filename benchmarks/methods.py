"""Render docs/methods/ from the docstrings of the losses; nothing is typed by hand."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path

from crossres.core.files import write_atomically
from crossres.losses import LOSSES
from crossres.losses.options import loss_options, reads

ABOUT = "Rendered from the docstrings in `src/crossres/losses/`. [What a step costs](../../results/bench/steps.md)."
#: A page for each kind of outputs that losses read.
FAMILIES = {
    "logits": "Losses on the classifier's answers",
    "embedding": "Losses on embeddings: samples, their relations, their contrast",
    "features": "Losses on feature maps",
}


def page(title: str, names: list[str]) -> str:
    """One family."""
    parts = [
        f"# {title}",
        ABOUT,
    ]
    for name in names:
        parts += [f"## `{name}`", body(name), options(name)]
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
    for other in LOSSES:
        if LOSSES[other] is LOSSES[name].__base__ and loss_options(other) == loss_options(name):
            return f"Options as of [`{other}`]({reads(other)}.md#{other})."
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in loss_options(name):
        meaning = option.help.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{option.name}` | {option.default} | {meaning} |")
    return "\n".join(lines) if len(lines) > 2 else "No options."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    chosen = parser.parse_args()
    for family, title in FAMILIES.items():
        names = [name for name in LOSSES if reads(name) == family]
        path = Path("docs/methods") / f"{family}.md"
        text = page(title, names)
        if chosen.check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path} is out of date: make tables")
        if not chosen.check:
            write_atomically(path, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    main()
