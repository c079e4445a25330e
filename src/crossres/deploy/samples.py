"""Photos that the page begins with: of a folder, or test images of the model's run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.deploy.photos import photos_below

#: Samples of a class, and of all.
FEW, MOST = 2, 24
Item = TypeVar("Item")


def samples(model: str, folder: str | None, into: Path) -> list[list[Path]]:
    """Return a few photos to begin with, class by class.

    Args:
        model: of a run's folder test images are taken, where its data are still there.
        folder: images to take instead, in a folder for each class or loose.
        into: folder that the run's test images are written to as PNG.

    Raises:
        CrossresError: there is no image in the folder.
    """
    if folder:
        of_class: dict[Path, list[Path]] = {}
        for path in photos_below(Path(folder)):
            of_class.setdefault(path.parent, []).append(path)
        if not of_class:
            raise CrossresError(f"{folder}: there is no image in it")
        return [paths[: FEW if len(of_class) > 1 else MOST] for paths in _spread(list(of_class.values()))]
    if not (Path(model) / "config.yaml").is_file():
        return []
    try:
        return list(_of_run(model, into))
    except CrossresError as error:
        print(f"no samples: {error}", file=sys.stderr)
        return []


def _of_run(model: str, into: Path) -> Iterator[list[Path]]:
    from crossres.config.options import Faces
    from crossres.config.reading import read_run
    from crossres.training.task import read_split

    config = read_run(model)
    # nothing is fetched for a sample
    config = replace(config, images=replace(config.images, download=False))
    images = read_split(config, "test", open_set=isinstance(config, Faces))
    if config.images.classes is not None:
        images = images.of_classes(config.images.classes)
    for label in _spread(np.flatnonzero(images.class_counts).tolist()):
        name = re.sub(r"[^\w-]+", "-", images.classes[label])[:40]
        chosen = np.flatnonzero(images.labels == label)[:FEW].tolist()
        paths = [into / f"{name}-{number}.png" for number in range(1, len(chosen) + 1)]
        for path, i in zip(paths, chosen, strict=True):
            Image.fromarray(images.image(i)).save(path)
        yield paths


def _spread(classes: Sequence[Item]) -> list[Item]:
    """Return no more classes than samples are shown of, evenly."""
    wanted = min(len(classes), MOST // FEW)
    return [classes[len(classes) * i // wanted] for i in range(wanted)]
