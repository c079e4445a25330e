"""Which parquet or tar shards a source has, and which split each belongs to by its name."""

import re
from collections.abc import Sequence
from pathlib import Path

from crossres.core.errors import CrossresError
from crossres.data.folder import folders_in, split_folders
from crossres.data.splits import SPLIT_WORDS

PARQUET, TAR = ".parquet", ".tar"
_NUMBERED = re.compile(r"^(?P<prefix>.*?)-(?P<number>\d+)-of-(?P<total>\d+)$")


def find_shards(path: Path, suffixes: Sequence[str] = (PARQUET,)) -> list[Path]:
    """Return the shards of a source, files that end in one of the suffixes, sorted; none if it is a folder of images.

    That is the file itself, or those in a folder, or those in its subfolder ``data``, or those in folders named by
    split, perhaps inside the one folder of a configuration: ``default/train/0000.parquet``.

    Raises:
        CrossresError: several configurations, or shards of two kinds.
    """

    def within(folder: Path) -> list[Path]:
        return sorted(file for suffix in suffixes for file in folder.glob(f"*{suffix}"))

    if not path.is_dir():
        return [path] if path.suffix in suffixes else []
    shards = within(path) or within(path / "data")
    if not shards:
        places = [path, *(path / name for name in folders_in(path))]
        inside = {place: [file for name in split_folders(place) for file in within(place / name)] for place in places}
        holding = [place for place, files in inside.items() if files]
        if len(holding) > 1:
            kind, names = inside[holding[0]][0].suffix[1:], ", ".join(place.name for place in holding)
            raise CrossresError(f"{path} holds {kind} files of several configurations: give one of {names}")
        shards = inside[holding[0]] if holding else []
    if other := [file for file in shards if file.suffix != shards[0].suffix]:
        raise CrossresError(f"{path} holds {shards[0].name} and {other[0].name}: move the shards of one kind away")
    return shards


def group_shards(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort shards into ``train``, ``test``, ``val`` and other prefixes by their names.

    ``train-00000-of-00003``, ``dev_test-00000-of-00001`` and plain ``validation`` all count by the word
    they hold.

    Raises:
        CrossresError: a numbered shard is missing between or after its neighbours, or nothing says which
            of several prefixes is the training split.
    """
    splits: dict[str, list[Path]] = {}
    numbers: dict[tuple[str, str, str], set[int]] = {}
    for path in sorted(paths):
        numbered = _NUMBERED.match(path.stem)
        prefix = numbered["prefix"] if numbered else path.stem
        # SPLIT/0000.parquet, as the Hub converts sets, says it by its folder
        named = re.split(r"[^a-z]+", prefix.lower()), [path.parent.name.lower()]
        words = next(filter(None, ([word for word in part if word in SPLIT_WORDS] for part in named)), [])
        split = SPLIT_WORDS[words[-1]] if words else prefix if numbered else ""
        splits.setdefault(split, []).append(path)
        if numbered:
            numbers.setdefault((split, prefix, numbered["total"]), set()).add(int(numbered["number"]))
    for (split, prefix, total), present in sorted(numbers.items()):
        missing = sorted(set(range(int(total))) - present)
        if missing and len(paths) > 1:  # one shard alone is somebody's choice
            lacking = f"shard {prefix}-{missing[0]:05d}-of-{total} is missing beside {splits[split][0]}"
            raise CrossresError(f"{lacking} ({len(missing)} of {int(total)} missing): fetch it")
    if "train" not in splits and len(splits) > 1:
        names = ", ".join(sorted(path.name for path in paths)[:6])
        remedy = f"name one train-*{paths[0].suffix}, or give one file"
        raise CrossresError(f"{paths[0].parent}: none of {names} is called train: {remedy}")
    return splits
