"""Labels as shards hold them, numbers or texts: from these to classes 0, 1, ... and their names."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from crossres.core.errors import CrossresError, composed, library_errors
from crossres.core.types import Bools, Int64s

#: Names a row, counted over all shards of a split.
Where = Callable[[int], str]


def number_classes(
    given: Sequence[int] | Sequence[str], codes: Int64s, column: str, where: Where, names: Sequence[str] | None = None
) -> tuple[Int64s, list[str]]:
    """Return the label of each row, int64 (N,), and the names of 0, 1, ...: texts and numbers without names, sorted.

    Args:
        given: different labels, all integers or all texts.
        codes: of each row (N,), its label's position among these.
        column: what holds them, for messages.
        where: names a row, for messages.
        names: of the labels 0, 1, ..., if they are known and the labels are integers.

    Raises:
        CrossresError: a label below 0 or without a name, or a name that occurs twice.
    """
    if given and isinstance(given[0], str):
        given = [composed(str(each)) for each in given]
    values = np.array(given)
    distinct, position = np.unique(values, return_inverse=True)

    def refuse(bad: Bools, rule: str) -> None:
        rows = np.flatnonzero(bad[codes])
        if len(rows):
            first = f"{where(int(rows[0]))} has {column} {values[codes[rows[0]]]} ({len(rows)} such rows)"
            raise CrossresError(f"{first}; {rule}")

    if distinct.dtype.kind in "iu":
        refuse(values < 0, "labels should be 0 or above (-1 usually means that the row has none)")
        if names:
            refuse(values >= len(names), f"with {len(names)} class names it should be 0 to {len(names) - 1}")
            if len(set(names)) < len(names):
                twice = next(name for name in names if list(names).count(name) > 1)
                raise CrossresError(f"two classes are called '{twice}': class names should differ")
            return values.astype(np.int64)[codes], [composed(name) for name in names]
    return position.reshape(-1)[codes], [str(value) for value in distinct.tolist()]


def by_class_name(labels: Int64s, names: list[str], classes: list[str], where: Where, source: str) -> Int64s:
    """Return labels that count ``names`` as positions in ``classes``: splits may count their classes differently."""
    place = {name: position for position, name in enumerate(classes)}
    unknown = [label for label in np.unique(labels).tolist() if names[label] not in place]
    if unknown:
        row, count = int(np.argmax(labels == unknown[0])), f"({len(unknown)} such classes)"
        given = f"{where(row)} of {source} is of class '{names[unknown[0]]}'"
        lacking = f"which the training split does not have {count}: remove them or add training images"
        raise CrossresError(f"{given}, {lacking}")
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)[labels]


def names_beside(path: Path) -> list[str] | None:
    """Read class names: a list in order of the labels, or an object whose values are the names.

    The keys of an object are the labels or, in the order of the labels, identifiers; these stand in
    where two identifiers share a name.
    """
    if not path.is_file():
        return None
    with library_errors(f"{path} is not JSON"):
        names = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(names, dict):
        if {str(number) for number in range(len(names))} == set(names):
            names = {str(number): names[str(number)] for number in range(len(names))}
        distinct = len({str(name) for name in names.values()}) == len(names)
        names = list(names.values() if distinct else names)
    if not isinstance(names, list):
        raise CrossresError(f"{path} should be a list of class names, or an object of them")
    return [str(name) for name in names]
