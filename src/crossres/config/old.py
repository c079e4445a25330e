"""Options of earlier versions: what runs, results and recipes of theirs say, in today's names."""

from collections.abc import Mapping
from typing import Any

from crossres.core.errors import CrossresError

#: Losses that have another name today.
RENAMED = {"crrcd": "crrcd_paper"}
#: Options of losses, by their old names, that are gone, with the values that mean what is done today; None: any.
GONE: dict[str, dict[str, Any]] = {
    "crrcd": {"negatives": "batch", "queue_size": None, "unit_embeddings": False},
    "crd": {"queue_size": None, "critic": "softmax", "reduction": None},  # reduction was of the sigmoid critic
    "*": {"match": "pool"},
}


def upgraded(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options in today's names: ``device`` and ``precision`` left ``train``, some of losses are gone,
    and one has another name.

    Raises:
        CrossresError: an option that is gone and was in use, or a loss by its old name beside its new one or beside
            a method that has taken the old name.
    """
    tree = dict(tree)
    if isinstance(tree.get("train"), Mapping):
        train = dict(tree["train"])
        moved = {key: train.pop(key) for key in ("device", "precision") if key in train}
        tree = {**moved, **tree, "train": train}
    if isinstance(tree.get("losses"), Mapping):
        for old, new in RENAMED.items():
            if old in tree["losses"] and (new in tree["losses"] or tree.get("method") == old):
                raise CrossresError(
                    f"losses.{old} is called losses.{new} now; name that one, with a method of its own"
                )
        tree["losses"] = {RENAMED.get(name, name): _kept(name, options) for name, options in tree["losses"].items()}
    return tree


def _kept(loss: str, options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    gone = GONE["*"] | GONE.get(loss, {})
    for key in options.keys() & gone.keys():
        if gone[key] is not None and options[key] != gone[key]:
            raise CrossresError(f"losses.{loss}.{key}={options[key]}: option was removed; delete it from the file")
    return {key: value for key, value in options.items() if key not in gone}
