"""Write N training and 2,000 test digits as folders few/N/train and few/N/test, for recipes/choices/.

python benchmarks/few.py 100 300 1000 3000
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from crossres.data.readers import read

TEST = 2000


def write(count: int) -> None:
    """Draw the images by a fixed seed; the test images are the same for every count."""
    digits = read("digits", split="all")
    order = np.random.default_rng(0).permutation(len(digits))
    for split, indices in (("train", order[TEST : TEST + count]), ("test", order[:TEST])):
        for i in map(int, indices):
            place = Path("few", str(count), split, digits.classes[digits.labels[i]], f"{i:04}.png")
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.image(i)).save(place)


if __name__ == "__main__":
    for count in sys.argv[1:]:
        write(int(count))
