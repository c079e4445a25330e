"""The declared parameters of a degradation."""

from __future__ import annotations

import pytest

from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation, check_size


@pytest.mark.parametrize(
    "wrong",
    [
        *({"blur": (2, 1)}, {"noise": (0, 3)}, {"jpeg": (0, 50)}, {"jpeg": (-1, 50)}, {"contrast": (0, 11)}),
        *({"share": 0.0}, {"share": 1.5}, {"share": 0.1}, {"share": 0.1, "kernel": "nearest"}),
    ],
)
def test_wrong_parameters(wrong):
    with pytest.raises(CrossresError, match=f"degradation.{next(iter(wrong))}"):
        Degradation(**wrong)


def test_a_preset_fills_in_what_is_left_out():
    clean, realistic = Degradation().resolved(), Degradation(preset="realistic", jpeg=(0, 0)).resolved()
    assert (clean.blur, clean.noise, clean.jpeg) == ((0, 0),) * 3
    assert (realistic.blur, realistic.noise, realistic.jpeg) == ((0.1, 0.7), (0, 0.04), (0, 0))
    assert (clean.brightness, clean.contrast, clean.saturation) == ((1, 1),) * 3
    assert realistic.resolved() == realistic


def test_sizes():
    assert (check_size(8), check_size((4, 8), 8)) == ((8, 8), (4, 8))
    with pytest.raises(CrossresError, match=r"^lr_size 9 is larger than hr_size 8; choose lr_size <= 8$"):
        check_size(9, 8)
