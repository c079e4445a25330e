"""What holds for every loss in the dict, and the checks of the base class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from crossres.losses import LOSSES
from crossres.losses.base import Loss
from crossres.losses.maps import MapLoss

FORMS = [(name, {}) for name in LOSSES] + [
    ("crd", {"form": "bank", "negatives": 16}),
    ("crrcd_paper", {"critic": "softmax", "depth": 3}),
    ("crrcd_paper", {"depth": 1}),
    ("crrcd_paper", {"both_directions": True}),
    ("crcd", {"anchors": 3, "critic": "sigmoid"}),
    ("horkd", {"assistant": 4}),
    ("ab", {"pretrain": 0.2}),
    ("fsp", {"pretrain": 0.2}),
]
DIM, SIZE = 6, 10
MAPS = [(6, 8, 8), (6, 4, 4)]
VECTORS = [name for name, loss in LOSSES.items() if not issubclass(loss, MapLoss)]


def built(name: str, options: dict) -> Loss:
    torch.manual_seed(0)
    width = DIM if name in VECTORS else MAPS
    loss = LOSSES[name](width, width, **options)
    loss.prepare(torch.arange(40) % 4)
    loss.pretraining = bool(options.get("pretrain"))
    return loss


def batch(name: str, seed: int = 0) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(40, generator=generator)[:SIZE]
    if name in VECTORS:
        teacher, student = torch.randn(2, SIZE, DIM, generator=generator)
        return teacher, student.requires_grad_(), index % 4, index
    teacher, student = ([torch.randn(SIZE, *shape, generator=generator) for shape in MAPS] for _ in range(2))
    return teacher, [x.requires_grad_() for x in student], index % 4, index


def parts(given: Any) -> list[torch.Tensor]:
    return [given] if isinstance(given, torch.Tensor) else given


def each(given: Any, change: Any) -> Any:
    return change(given) if isinstance(given, torch.Tensor) else [change(x) for x in given]


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_is_a_float32_scalar_with_gradients_where_they_belong(name: str, options: dict) -> None:
    loss = built(name, options)
    teacher, student, label, index = batch(name)
    for part in parts(teacher):
        part.requires_grad_()
    for stage in (True, False) if loss.pretrain else (False,):
        loss.pretraining = stage
        value = loss(teacher, student, label, index)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value.isfinite()
        value.backward()
    assert all(part.grad is None for part in parts(teacher))
    grads = [part.grad for part in parts(student) if part.grad is not None]
    assert grads
    assert all(grad.abs().sum() > 0 for grad in grads)
    for parameter_name, parameter in loss.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(("name", "options"), FORMS)
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_computes_in_float32_whatever_autocast_gives(name: str, options: dict, low: torch.dtype) -> None:
    teacher, student, label, index = batch(name)
    teacher, student = (
        each(teacher, lambda x: x.to(low)),
        each(student, lambda x: x.detach().to(low).requires_grad_()),
    )
    full = each(student, lambda x: x.detach().float().requires_grad_())
    torch.manual_seed(1)
    expected = built(name, options)(each(teacher, torch.Tensor.float), full, label, index)
    expected.backward()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        value = built(name, options)(teacher, student, label, index)
    value.backward()
    assert value.dtype == torch.float32
    # their layers follow autocast, as a network's do
    if name in ("crrcd_paper", "crrcd_maps", "crcd", "crcd_gradient"):
        torch.testing.assert_close(value, expected, rtol=0.02, atol=0)
        for ours, theirs in zip(parts(student), parts(full), strict=True):
            assert F.cosine_similarity(ours.grad.float().flatten(), theirs.grad.flatten(), dim=0) > 0.99
        return
    assert torch.equal(value, expected)
    # The gradient reaches the student in the student's own precision.
    tolerance = 2 * torch.finfo(low).eps
    for ours, theirs in zip(parts(student), parts(full), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_same_seed_same_loss_and_resume_goes_on_exactly(name: str, options: dict) -> None:
    def step(loss: Loss, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return loss(*batch(name, seed))

    loss, twin = built(name, options), built(name, options)
    for seed in range(3):
        assert torch.equal(step(loss, seed), step(twin, seed))
    resumed = built(name, options)
    resumed.load_state_dict(loss.state_dict())
    for seed in range(3, 6):
        assert torch.equal(step(loss, seed), step(resumed, seed))


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_eval_mode_changes_no_buffer(name: str, options: dict) -> None:
    loss = built(name, options)
    loss(*batch(name, 0))
    loss.eval()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss(*batch(name, 1))
    for key, value in loss.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", LOSSES)
def test_nan_and_infinity_are_refused(name: str, bad: float, side: str) -> None:
    loss = built(name, {})
    if side == "teacher" and not loss.needs_teacher:
        return
    teacher, student, label, index = batch(name)
    with torch.no_grad():
        parts({"teacher": teacher, "student": student}[side])[-1][2, 1] = bad
    with pytest.raises(ValueError, match=rf"^{type(loss).__name__}: {side} {loss.reads} holds NaN or infinity.*$"):
        loss(teacher, student, label, index)


def test_large_numbers_whose_sum_is_infinite_are_finite() -> None:
    _, student, label, index = batch("kd")
    assert built("kd", {})(torch.full((SIZE, DIM), 3e38), student, label, index).isfinite()


@pytest.mark.parametrize("name", VECTORS)
def test_wrong_input_is_refused_in_one_line(name: str) -> None:
    loss = built(name, {})
    teacher, student, label, index = batch(name)
    wrong = [
        ((teacher, student[:, :-1], label, index), "student is .*, expected"),
        ((teacher, student[:, :, None], label, index), "student is .*, expected"),
        ((teacher[:0], student[:0], label[:0], index[:0]), "batch is empty"),
        ((teacher, student, label[:-1], index), "label is .*, expected"),
        ((teacher, student, label.float(), index), "label is torch.float32, expected torch.int64"),
        ((teacher, student, label, index[:-1]), "index is .*, expected"),
    ]
    if loss.needs_teacher:
        wrong.append(((teacher[:-1], student, label, index), "teacher is .*, expected"))
        wrong.append(((teacher[:, :-1], student, label, index), "teacher is .*, expected"))
        wrong.append(((None, student, label, index), "needs the teacher"))
    if loss.needs_label:
        wrong.append(((teacher, student, None, index), "needs labels"))
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=rf"^{type(loss).__name__}: .*{message}[^\n]*$"):
            loss(*arguments)
