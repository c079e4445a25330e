"""How a loss refuses an option out of range."""

from __future__ import annotations


def demand(loss: str, option: str, value: object, ok: bool, valid: str) -> None:
    """Raise a one-line ``ValueError`` naming the loss, the option and its valid range unless ``ok``."""
    if not ok:
        raise ValueError(f"{loss}: {option} is {value!r}, expected {valid}")
