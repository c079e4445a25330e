"""What a classifier loses on images of other cameras, and how these look beside those it was trained on."""

from dataclasses import replace

import numpy as np

from crossres.config.options import as_trained
from crossres.data.images import ImageSet
from crossres.evaluation.discrepancy import discrepancy, natural_sets
from crossres.evaluation.prepare import loader_of
from crossres.report.content import FinishedRun
from crossres.report.page import Block, Card, Cell, Table
from crossres.report.parts import data_uri, share

#: Classes of each natural set that are shown.
SHOWN = 6


def other_cameras(run: FinishedRun) -> Block | None:
    """Judge a run on the report's natural images; None where it has none.

    CrossresError: no such images, or classes that the student does not know.
    """
    if not run.shared.options.natural:
        return None
    natural = list(dict.fromkeys(run.shared.options.natural))
    options = replace(run.judgement, natural=natural, images=as_trained(run.config.images))
    sets = natural_sets(run.student, options)
    rows: list[tuple[str, list[Cell]]] = []
    for row in discrepancy(run.student, run.test.images, sets, options, run.device):
        ends = "{:+.1f} to {:+.1f}".format(*row["interval"]) if row["interval"] else "none"
        lost = Cell(f"{row['drop']:+.1f}", ends) if rows else Cell("")
        counts = [Cell(f"{row[name]:,}") for name in ("images", "groups")]
        shares = [Cell(f"{share(row[key])} %") for key in ("top1", "class_mean")]
        rows.append((row["name"], [*counts, *shares, lost]))
    note = (
        "Class mean: the mean over classes of each one's top-1. Lost: points of top-1 less than as trained; small: "
        "its 95 % interval (bootstrap over groups, such as tracks, or over images where no groups are known; none "
        "where either is of one group). Pictures: a test image as trained beside a natural one of its class."
    )
    cards = [card for images in sets for card in _cards(run, images)]
    return Block(
        "Other cameras",
        table=Table(["", "images", "groups", "top-1", "class mean", "lost"], rows),
        cards=cards,
        note=note,
    )


def _cards(run: FinishedRun, natural: ImageSet) -> list[Card]:
    """Show an image of each of some classes: of the test as trained, and of a natural set."""
    test = run.test.images
    cards: list[Card] = []
    for name in [name for name in natural.classes if name in test.classes]:
        own, other = (np.flatnonzero(images.labels == images.classes.index(name)) for images in (test, natural))
        if not len(own) or not len(other) or len(cards) == SHOWN:
            continue
        shrunk = next(run.loader(test).ordered(own[:1].tolist(), hr=True))
        loader = loader_of(run.judgement, run.student, natural.subset(other[:1]), run.device, native=True)
        crop = next(loader.ordered())
        assert shrunk.hr is not None
        pictures = [(shrunk.hr, f"HR {run.at_hr}"), (shrunk.lr, f"as trained {run.at_lr}"), (crop.lr, natural.name)]
        where = natural.path(int(other[0])) or natural.where(int(other[0]))
        cards.append(Card([(data_uri(image[0]), text) for image, text in pictures], [("class", name, None)], where))
    return cards
