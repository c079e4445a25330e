"""``crossres models``: the ready models and their cards."""

import textwrap
from collections.abc import Iterator
from typing import Any

from crossres.commands.parsing import Request
from crossres.commands.printing import show, show_json
from crossres.config.deployment import Models
from crossres.core.timing import significant
from crossres.models.zoo import card, names

#: Letters of a line.
WIDTH = 100


def run(options: Models, request: Request) -> None:
    """Print a line for each ready model, or the card of one; as JSON the documents of `crossres.models.zoo.card`."""
    cards = [card(name) for name in ([options.name] if options.name else names())]
    if request.json:
        show_json(cards[0] if options.name else {"models": cards})
    else:
        show(*(_card(cards[0]) if options.name else _list(cards)))


def _list(cards: list[dict[str, Any]]) -> Iterator[str]:
    for each in cards:
        first = each["measured"][0]
        yield f"{each['name']:14}{_size(each):8}{each['bytes'] / 1e6:5.2f} MB  {each['about']}"
        yield f"{'':29}{first['measure']}: {_value(first)}"
    yield ""
    yield "crossres predict MODEL PHOTOS; crossres verify --model MODEL A B; crossres page; crossres models MODEL"


def _card(each: dict[str, Any]) -> Iterator[str]:
    adds = significant(each["multiply_adds"] / 1e6)
    yield f"{each['name']}: {each['about']}"
    yield f"reads {_size(each)} pixels, {each['parameters']:,} parameters, {adds} million multiply-adds, int8"
    yield ""
    yield "measured on this file, with 95 % intervals:"
    yield from (f"  {row['measure']}: {_value(row)}" for row in each["measured"])
    trained, held_out, judged = (f"{each['images'][part]:,}" for part in ("train", "val", "test"))
    used = f"{each['data']}; {trained} images to learn from, {held_out} to choose by, {judged} to judge by"
    rows = {"expects": each["expects"], "data": used, **{name: each[name] for name in ("licence", "teacher")}}
    for name, text in {**rows, "not for": each["not_for"], "recipe": each["recipe"]}.items():
        yield from textwrap.wrap(f"{name}: {text}", WIDTH, subsequent_indent="  ")
    if each["classes"]:
        yield from textwrap.wrap(f"classes: {', '.join(each['classes'])}", WIDTH, subsequent_indent="  ")


def _size(each: dict[str, Any]) -> str:
    low, high = each["lr_size"]
    return f"{low}x{low}" if low == high else f"{low} to {high}"


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.1f} % ({row['low']:.1f} to {row['high']:.1f}; {row['count']:,})"
