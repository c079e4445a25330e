"""What the tests of several losses share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def same_gradients() -> Callable[..., None]:
    """A check of a loss against its formula in float64: value, gradients of the student and of each weight."""

    def check(
        loss: nn.Module,
        value: Tensor,
        expected: Tensor,
        student: Tensor | list[Tensor],
        doubled: Tensor | list[Tensor],
        value_rtol: float = 1e-5,
        rtol: float = 1e-4,
    ) -> None:
        student, doubled = ([side] if isinstance(side, Tensor) else side for side in (student, doubled))
        weights = list(loss.parameters())
        got = torch.autograd.grad(value, [*student, *weights])
        want = torch.autograd.grad(expected, [*doubled, *weights])
        assert value.item() == pytest.approx(expected.item(), rel=value_rtol)
        for a, b in zip(got, want, strict=True):
            assert (a - b).abs().max() <= rtol * b.abs().max() + 1e-6

    return check
