"""Numbers and names as a page writes them."""

from __future__ import annotations

import pytest

from crossres.report.parts import rounded, share, short, words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.034, "0.03"), (3.333, "3.33"), (9.999, "10.0"), (79.1667, "79.2"), (99.97, "99.97"), (100, "100")],
)
def test_percentages(value: float, text: str) -> None:
    assert share(value) == text


def test_only_all_is_a_hundred_percent() -> None:
    assert share(99.9999) == "99.99"


def test_numbers_have_few_digits_and_no_exponent() -> None:
    assert [rounded(value) for value in (0.0, 0.32345, 944.4, 12345.6)] == ["0", "0.323", "944", "12,300"]
    assert [short(count) for count in (0, 78042, 1_223_000)] == ["not known", "78 k", "1.22 M"]


def test_names_of_losses_are_words() -> None:
    assert words("ce+crrcd_images (decays)") == "ce + crrcd images (decays)"
