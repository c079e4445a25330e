"""What options that are left out come to."""

from __future__ import annotations

import pytest

from crossres.config.options import Train


@pytest.mark.parametrize(
    ("images", "course"),
    [
        (1, (60, 16)),
        (270, (60, 16)),
        (959, (60, 16)),
        (960, (60, 32)),
        (1920, (60, 64)),
        (3840, (60, 128)),
        (4999, (60, 128)),
        (5000, (30, 128)),
        (1_000_000, (30, 128)),
    ],
)
def test_few_images_have_more_epochs_of_smaller_batches(images: int, course: tuple[int, int]) -> None:
    assert Train().course(images) == course
    assert Train(epochs=7).course(images) == (7, course[1])
    assert Train(batch_size=24).course(images) == (course[0], 24)
