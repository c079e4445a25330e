# ruff: noqa: ARG001  every picture is drawn alike
"""Draw the pictures that travel with the ready models: python benchmarks/draw_samples.py.

They are nobody's photos: simple drawings of CIFAR-100's classes, of traffic signs and of faces that do not exist, for
the page to begin with and for the test that a model answers as its card says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parents[1] / "src/crossres/models/zoo/samples"
#: Side of a picture in pixels, and times which it is drawn larger.
SIDE, LARGER = 64, 8
Draw = ImageDraw.ImageDraw
Colour = tuple[int, int, int]

WHITE, BLACK, RED, BLUE = (245, 245, 245), (25, 25, 25), (196, 22, 30), (20, 70, 160)


def canvas(top: Colour, bottom: Colour | None = None) -> Image.Image:
    """Return a picture whose colour changes from top to bottom."""
    ends = np.array([top, bottom or top], dtype=np.float64)
    rows = ends[0] + np.linspace(0, 1, SIDE * LARGER)[:, None] * (ends[1] - ends[0])
    return Image.fromarray(np.repeat(rows[:, None], SIDE * LARGER, 1).round().astype(np.uint8))


def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """Return a box that is given in pixels of the picture."""
    return left * LARGER, top * LARGER, right * LARGER, bottom * LARGER


def points(*pairs: Sequence[float]) -> list[tuple[float, float]]:
    """Return points that are given in pixels of the picture."""
    return [(x * LARGER, y * LARGER) for x, y in pairs]


def shaded(picture: Image.Image, where: tuple[float, float, float, float], colour: Colour) -> None:
    """Draw a ball that light falls on from the upper left."""
    left, top, right, bottom = (round(v) for v in where)
    y, x = np.mgrid[0 : bottom - top, 0 : right - left]
    u, v = 2 * x / (right - left) - 1, 2 * y / (bottom - top) - 1
    light = np.clip(1.25 - 0.75 * np.hypot(u + 0.35, v + 0.4), 0.3, 1.3)[..., None]
    ball = Image.fromarray(np.clip(np.array(colour) * light, 0, 255).astype(np.uint8))
    mask = Image.fromarray(((np.hypot(u, v) <= 1) * 255).astype(np.uint8))
    picture.paste(ball, (left, top), mask)


def apple(picture: Image.Image, draw: Draw) -> None:
    shaded(picture, box(11, 16, 40, 58), (206, 30, 36))
    shaded(picture, box(24, 16, 53, 58), (206, 30, 36))
    shaded(picture, box(14, 15, 50, 58), (206, 30, 36))
    draw.line(points((32, 20), (35, 7)), (92, 60, 30), 2 * LARGER)
    draw.ellipse(box(35, 8, 47, 15), (70, 140, 50))


def orange(picture: Image.Image, draw: Draw) -> None:
    shaded(picture, box(10, 10, 54, 54), (245, 140, 20))
    draw.ellipse(box(30, 13, 34, 16), (90, 110, 30))


def pear(picture: Image.Image, draw: Draw) -> None:
    shaded(picture, box(22, 12, 42, 42), (190, 200, 60))
    shaded(picture, box(14, 25, 50, 60), (190, 200, 60))
    draw.line(points((32, 14), (35, 4)), (92, 60, 30), 2 * LARGER)


def sunflower(picture: Image.Image, draw: Draw) -> None:
    draw.line(points((32, 40), (32, 64)), (60, 120, 40), 4 * LARGER)
    for turn in np.linspace(0, 2 * np.pi, 20, endpoint=False):
        x, y = 32 + 19 * np.cos(turn), 28 + 19 * np.sin(turn)
        draw.ellipse(box(x - 6, y - 6, x + 6, y + 6), (250, 200, 20))
    shaded(picture, box(19, 15, 45, 41), (110, 64, 24))


def poppy(picture: Image.Image, draw: Draw) -> None:
    draw.line(points((32, 40), (30, 64)), (60, 120, 40), 3 * LARGER)
    for x, y in ((22, 24), (42, 24), (32, 18), (32, 34)):
        shaded(picture, box(x - 15, y - 13, x + 15, y + 13), (226, 40, 24))
    draw.ellipse(box(27, 21, 37, 31), BLACK)


def rocket(picture: Image.Image, draw: Draw) -> None:
    draw.polygon(points((32, 4), (39, 18), (39, 44), (25, 44), (25, 18)), (235, 235, 235))
    draw.polygon(points((25, 34), (18, 48), (25, 44)), (180, 40, 40))
    draw.polygon(points((39, 34), (46, 48), (39, 44)), (180, 40, 40))
    draw.polygon(points((27, 44), (37, 44), (34, 62), (30, 62)), (255, 180, 40))


def sea(picture: Image.Image, draw: Draw) -> None:
    draw.rectangle(box(0, 30, 64, 64), (20, 80, 130))
    for row in range(34, 64, 4):
        for column in range(-8 + row % 8, 64, 16):
            draw.arc(box(column, row, column + 12, row + 5), 200, 340, (70, 130, 170), LARGER)


def plain(picture: Image.Image, draw: Draw) -> None:
    draw.rectangle(box(0, 38, 64, 64), (150, 150, 60))


def mountain(picture: Image.Image, draw: Draw) -> None:
    draw.polygon(points((0, 52), (16, 28), (26, 38), (42, 12), (64, 44), (64, 64), (0, 64)), (84, 92, 108))
    draw.polygon(points((42, 12), (49, 23), (44, 27), (40, 22), (35, 27), (36, 22)), (240, 240, 245))
    draw.polygon(points((16, 28), (20, 32), (16, 34), (12, 34)), (240, 240, 245))


def road(picture: Image.Image, draw: Draw) -> None:
    draw.rectangle(box(0, 28, 64, 64), (90, 130, 60))
    draw.polygon(points((29, 28), (35, 28), (60, 64), (4, 64)), (90, 90, 94))
    for top, bottom, half in ((31, 35, 0.4), (39, 45, 0.8), (50, 60, 1.4)):
        draw.polygon(
            points((32 - half, top), (32 + half, top), (32 + 1.4 * half, bottom), (32 - 1.4 * half, bottom)), WHITE
        )


def bottle(picture: Image.Image, draw: Draw) -> None:
    draw.rounded_rectangle(box(22, 24, 42, 60), 4 * LARGER, (40, 110, 60))
    draw.rectangle(box(28, 8, 36, 26), (40, 110, 60))
    draw.rectangle(box(27, 4, 37, 9), (200, 170, 60))
    draw.rectangle(box(22, 36, 42, 50), (230, 225, 200))


def cup(picture: Image.Image, draw: Draw) -> None:
    draw.arc(box(38, 22, 58, 46), -90, 90, (200, 60, 50), 4 * LARGER)
    draw.polygon(points((12, 16), (46, 16), (42, 56), (16, 56)), (214, 70, 60))
    draw.ellipse(box(12, 11, 46, 21), (240, 200, 190))


def skyscraper(picture: Image.Image, draw: Draw) -> None:
    draw.rectangle(box(22, 6, 44, 64), (110, 124, 146))
    for y in range(10, 62, 5):
        for x in range(25, 42, 5):
            draw.rectangle(box(x, y, x + 3, y + 3), (200, 214, 230))


def mushroom(picture: Image.Image, draw: Draw) -> None:
    draw.rounded_rectangle(box(26, 30, 38, 58), 4 * LARGER, (232, 220, 196))
    shaded(picture, box(10, 10, 54, 50), (178, 110, 60))
    draw.rectangle(box(10, 33, 26, 52), (70, 96, 50))
    draw.rectangle(box(38, 33, 54, 52), (70, 96, 50))


def disc(draw: Draw, colour: Colour, rim: Colour = WHITE) -> None:
    draw.ellipse(box(5, 5, 59, 59), rim)
    draw.ellipse(box(7, 7, 57, 57), colour)


def no_entry(picture: Image.Image, draw: Draw) -> None:
    disc(draw, RED)
    draw.rectangle(box(13, 27, 51, 37), WHITE)


def yield_(picture: Image.Image, draw: Draw) -> None:
    draw.polygon(points((3, 8), (61, 8), (32, 60)), RED)
    draw.polygon(points((13, 14), (51, 14), (32, 48)), WHITE)


def priority_road(picture: Image.Image, draw: Draw) -> None:
    draw.polygon(points((32, 2), (62, 32), (32, 62), (2, 32)), WHITE)
    draw.polygon(points((32, 10), (54, 32), (32, 54), (10, 32)), (245, 185, 20))


def keep_right(picture: Image.Image, draw: Draw) -> None:
    disc(draw, BLUE)
    draw.line(points((19, 19), (40, 40)), WHITE, 6 * LARGER)
    draw.polygon(points((46, 28), (46, 47), (27, 47)), WHITE)


def ahead_only(picture: Image.Image, draw: Draw) -> None:
    disc(draw, BLUE)
    draw.rectangle(box(28, 26, 36, 50), WHITE)
    draw.polygon(points((32, 11), (44, 29), (20, 29)), WHITE)


def no_vehicles(picture: Image.Image, draw: Draw) -> None:
    disc(draw, RED)
    draw.ellipse(box(14, 14, 50, 50), WHITE)


Paint = Callable[[Image.Image, Draw], None]
OBJECTS: dict[Paint, tuple[Colour, Colour]] = {
    apple: (WHITE, WHITE),
    orange: (WHITE, WHITE),
    pear: (WHITE, WHITE),
    sunflower: ((120, 170, 220), (90, 140, 60)),
    poppy: ((110, 150, 80), (60, 100, 40)),
    rocket: ((60, 110, 190), (150, 190, 230)),
    sea: ((150, 190, 225), (210, 225, 235)),
    plain: ((110, 160, 220), (220, 230, 240)),
    mountain: ((120, 170, 225), (200, 220, 240)),
    road: ((130, 175, 225), (210, 225, 240)),
    bottle: (WHITE, WHITE),
    cup: (WHITE, WHITE),
    skyscraper: ((110, 165, 225), (190, 215, 240)),
    mushroom: ((70, 96, 50), (70, 96, 50)),
}
SIGNS: tuple[Paint, ...] = (no_entry, yield_, priority_road, keep_right, ahead_only, no_vehicles)
STREET = ((150, 165, 180), (96, 110, 96))


def draw_all() -> dict[str, Image.Image]:
    """Return the pictures by their paths below the folder."""
    pictures = {}
    kinds = {"objects": OBJECTS, "signs": dict.fromkeys(SIGNS, STREET)}
    for kind, paints in kinds.items():
        for paint, ground in paints.items():
            picture = canvas(*ground)
            paint(picture, ImageDraw.Draw(picture))
            small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            pictures[f"{kind}/{paint.__name__.strip('_')}.png"] = small.filter(ImageFilter.GaussianBlur(0.6))
    return pictures


def main() -> None:
    """Write them all."""
    for name, picture in draw_all().items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
