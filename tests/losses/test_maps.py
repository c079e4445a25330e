"""The losses on feature maps against explicit loops, in float64; and how they bring two resolutions together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from crossres.losses.ab import AB
from crossres.losses.askd import ASKD
from crossres.losses.at import AT
from crossres.losses.fitnet import FitNet
from crossres.losses.fskd import FSKD
from crossres.losses.fsp import FSP
from crossres.losses.ft import FT
from crossres.losses.maps import MapLoss
from crossres.losses.nst import NST
from crossres.losses.review import ReviewKD
from crossres.losses.sp import SP
from crossres.losses.vid import VID

B = 3
#: a teacher at 8 x 8 and a student at 4 x 4, of other widths
TEACHER, STUDENT = [(3, 8, 8), (5, 4, 4)], [(4, 4, 4), (2, 2, 2)]


def maps(shapes: list[tuple[int, int, int]], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, *shape, generator=generator) for shape in shapes]


def pooled(x: torch.Tensor, size: int) -> torch.Tensor:
    """Means over the cells of a size x size grid, a cell at a time."""
    step = x.shape[-1] // size
    rows = [
        [x[..., step * i : step * (i + 1), step * j : step * (j + 1)].mean((-2, -1)) for j in range(size)]
        for i in range(size)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def length(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum().sqrt()


def naive_fitnet(loss: FitNet, t: list, s: list) -> torch.Tensor:
    weight, bias = (p.double() for p in (loss.regressor.weight[:, :, 0, 0], loss.regressor.bias))
    t, s = t[loss.stage], s[loss.stage]
    out = torch.stack(
        [torch.stack([(weight[c] * x.permute(1, 2, 0)).sum(-1) + bias[c] for c in range(len(bias))]) for x in s]
    )
    total = 0.0
    for c in range(t.shape[1]):
        mean, variance = out[:, c].mean(), ((out[:, c] - out[:, c].mean()) ** 2).mean()
        normal = (out[:, c] - mean) / torch.sqrt(variance + 1e-5)
        normal = normal * loss.norm.weight[c].double() + loss.norm.bias[c].double()
        total = total + ((torch.clamp(normal, min=0) - t[:, c]) ** 2).sum()
    return total / t.numel()


def naive_at(loss: AT, t: list, s: list) -> torch.Tensor:
    total = 0.0
    for a, b in zip(t, s, strict=True):
        for i in range(B):
            q_t, q_s = (sum(abs(channel) ** loss.power for channel in x[i]) / len(x[i]) for x in (a, b))
            total = total + ((q_t / length(q_t) - q_s / length(q_s)) ** 2).sum() / (B * q_t.numel())
    return total


def naive_sp(loss: SP, t: list, s: list) -> torch.Tensor:  # noqa: ARG001
    def matrix(x):
        g = [torch.stack([(x[i] * x[j]).sum() for j in range(B)]) for i in range(B)]
        return torch.stack([row / length(row) for row in g])

    return ((matrix(t[-1]) - matrix(s[-1])) ** 2).sum() / B**2


def naive_nst(loss: NST, t: list, s: list) -> torch.Tensor:  # noqa: ARG001
    def kernel(a, b):
        return sum((x / length(x) * y / length(y)).sum() ** 2 for x in a for y in b) / (len(a) * len(b))

    total = 0.0
    for a, b in zip(t, s, strict=True):
        for i in range(B):
            total = total + (kernel(a[i], a[i]) + kernel(b[i], b[i]) - 2 * kernel(b[i], a[i])) / B
    return total


def naive_vid(loss: VID, t: list, s: list) -> torch.Tensor:
    total = 0.0
    for stage, (a, b) in enumerate(zip(t, s, strict=True)):
        first, second, third = (loss.regressors[stage][k].weight[:, :, 0, 0].double() for k in (0, 2, 4))
        for i in range(B):
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    mean = third @ torch.relu(second @ torch.relu(first @ b[i, :, y, x]))
                    for c in range(a.shape[1]):
                        variance = torch.log(1 + torch.exp(loss.scales[stage][c].double())) + 1e-5
                        term = (a[i, c, y, x] - mean[c]) ** 2 / variance + torch.log(variance)
                        total = total + 0.5 * term / a.numel()
    return total


def naive_fsp(loss: FSP, t: list, s: list) -> torch.Tensor:
    s = [
        b if a.shape[1] == b.shape[1] else convolved(b, layer)
        for a, b, layer in zip(t, s, loss.projections, strict=True)
    ]

    def flow(x, i, c, d):
        size = x[1].shape[-1]
        return (pooled(x[0][i, c], size) * x[1][i, d]).mean()

    channels = [(i, c, d) for i in range(B) for c in range(t[0].shape[1]) for d in range(t[1].shape[1])]
    return sum((flow(t, *at) - flow(s, *at)) ** 2 for at in channels) / len(channels)


def norm(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """Batch norm of a batch's maps, in training mode."""
    channels = []
    for c in range(x.shape[1]):
        y = x[:, c]
        y = (y - y.mean()) / torch.sqrt(((y - y.mean()) ** 2).mean() + 1e-5)
        channels.append(y * layer.weight[c].double() + layer.bias[c].double())
    return torch.stack(channels, 1)


def convolved(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """A convolution as a sum over the shifts of its kernel."""
    weight = layer.weight.double()
    reach = weight.shape[-1] // 2
    padded = F.pad(x, (reach,) * 4)
    total = 0.0
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            part = padded[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
            total = total + torch.einsum("oc,bcyx->boyx", weight[:, :, dy, dx], part)
    return total if layer.bias is None else total + layer.bias.double()[:, None, None]


def naive_review(loss: ReviewKD, t: list, s: list) -> torch.Tensor:
    total, deeper = 0.0, None
    for stage in (1, 0):
        fusion = loss.fusions[stage]
        x = norm(convolved(s[stage], fusion.enter[0]), fusion.enter[1])
        if deeper is not None:
            twice = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
            share = 1 / (1 + torch.exp(-convolved(torch.cat([x, twice], 1), fusion.attention)))
            x = x * share[:, :1] + twice * share[:, 1:]
        deeper = x
        out = norm(convolved(x, fusion.leave[0]), fusion.leave[1])
        side = out.shape[-1]
        terms = [(1.0, ((out - t[stage]) ** 2).mean())]
        for level, weight in zip([n for n in (4, 2, 1) if n < side], (0.5, 0.25, 0.125), strict=False):
            terms.append((weight, ((pooled(out, level) - pooled(t[stage], level)) ** 2).mean()))
        total = total + sum(w * x for w, x in terms) / sum(w for w, _ in terms)
    return total


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum() / length(a) / length(b)


def naive_askd(loss: ASKD, t: list, s: list) -> torch.Tensor:
    total = 0.0
    for a, b, layer in zip(t, s, loss.projections, strict=True):
        wide = convolved(b, layer) if a.shape[1] != b.shape[1] else b
        for i in range(B):
            total = total + (1 - cosine(*(sum(abs(c) for c in x[i]) for x in (a, b)))) / B
            over = (torch.stack([abs(c).mean() for c in x[i]]) for x in (a, wide))
            total = total + (1 - cosine(*over)) / B
    return total


def naive_fskd(loss: FSKD, t: list, s: list) -> torch.Tensor:
    total = 0.0
    for a, b, layer in zip(t, s, loss.projections, strict=True):
        b = convolved(b, layer) if a.shape[1] != b.shape[1] else b
        total = total + sum(1 - cosine(a[i], b[i]) for i in range(B)) / B / len(t)
    return total


def naive_ab(loss: AB, t: list, s: list) -> torch.Tensor:
    total = 0.0
    for stage, (a, b, (conv, bn)) in enumerate(zip(t, s, loss.connectors, strict=True)):
        b = norm(convolved(b, conv), bn)
        for x, y in zip(a.flatten(), b.flatten(), strict=True):
            if x > 0 and y <= loss.margin:
                total = total + (y - loss.margin) ** 2 / 2 ** (len(t) - 1 - stage)
            if x <= 0 and y > -loss.margin:
                total = total + (y + loss.margin) ** 2 / 2 ** (len(t) - 1 - stage)
    return total * 3 / 1000 / B


def through(x: torch.Tensor, layers: Any) -> torch.Tensor:
    """Convolutions with a bias and a leaky relu after each."""
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            x = convolved(x, layer)
            x = torch.where(x > 0, x, 0.1 * x)
    return x


def naive_ft(loss: FT, t: list, s: list) -> torch.Tensor:
    words, factors = through(t[-1], loss.words), through(s[-1], loss.translator)
    parts = [(a / length(a) - b / length(b)).abs().sum() for a, b in zip(words, factors, strict=True)]
    return sum(parts) / words.numel()


def naive_reconstruction(loss: FT, t: list, s: list) -> torch.Tensor:  # noqa: ARG001
    rebuilt = through(through(t[-1], loss.paraphraser), loss.decoder)
    return ((rebuilt - t[-1]) ** 2).sum() / rebuilt.numel()


def staged(loss: MapLoss) -> MapLoss:
    loss.pretraining = True
    return loss


SAME = [(4, 8, 8), (2, 4, 4)]
CASES = [
    (lambda: FitNet(TEACHER, STUDENT), naive_fitnet, TEACHER),
    (lambda: FitNet(TEACHER, STUDENT, stage=0), naive_fitnet, TEACHER),
    (lambda: AT(TEACHER, STUDENT), naive_at, TEACHER),
    (lambda: AT(TEACHER, STUDENT, power=1.0), naive_at, TEACHER),
    (lambda: SP(TEACHER, STUDENT), naive_sp, TEACHER),
    (lambda: NST(TEACHER, STUDENT), naive_nst, TEACHER),
    (lambda: VID(TEACHER, STUDENT), naive_vid, TEACHER),
    (lambda: VID(TEACHER, STUDENT, variance=0.5), naive_vid, TEACHER),
    (lambda: staged(FSP(SAME, STUDENT)), naive_fsp, SAME),
    (lambda: FSP(TEACHER, STUDENT, pretrain=0.0), naive_fsp, TEACHER),
    (lambda: staged(AB(TEACHER, STUDENT)), naive_ab, TEACHER),
    (lambda: staged(AB(SAME, STUDENT, margin=0.3)), naive_ab, SAME),
    (lambda: FT(TEACHER, STUDENT), naive_ft, TEACHER),
    (lambda: staged(FT(TEACHER, STUDENT, rate=0.8)), naive_reconstruction, TEACHER),
    (lambda: ReviewKD(TEACHER, STUDENT), naive_review, TEACHER),
    (lambda: ReviewKD(TEACHER, STUDENT, width=3), naive_review, TEACHER),
    (lambda: ASKD(TEACHER, STUDENT), naive_askd, TEACHER),
    (lambda: ASKD(SAME, STUDENT), naive_askd, SAME),
    (lambda: FSKD(TEACHER, STUDENT), naive_fskd, TEACHER),
    (lambda: FSKD(SAME, STUDENT), naive_fskd, SAME),
]


@pytest.mark.parametrize(("build", "naive", "shapes"), CASES)
def test_equals_the_explicit_loop(build: Any, naive: Any, shapes: Any) -> None:
    torch.manual_seed(0)
    loss = build()
    teacher, student = maps(shapes, 1), [x.requires_grad_() for x in maps(STUDENT, 2)]
    value = loss(teacher, student)
    doubled = [x.detach().double().requires_grad_() for x in student]
    at_students_size = [pooled(t.double(), s.shape[-1]) for t, s in zip(teacher, student, strict=True)]
    expected = naive(loss, at_students_size, doubled)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    weights = [p for p in loss.parameters() if p.requires_grad]
    got = torch.autograd.grad(value, [*student, *weights], allow_unused=True)
    want = torch.autograd.grad(expected, [*doubled, *weights], allow_unused=True)
    for a, b in zip(got, want, strict=True):
        if a is not None and b is not None:
            assert (a - b).abs().max() <= 1e-3 * b.abs().max() + 1e-6
        else:  # of what rests
            assert a is None or not a.any()
            assert b is None


@pytest.mark.parametrize("kind", [AT, SP, NST, FSP, ASKD, FSKD])
def test_the_teacher_itself_costs_nothing(kind: type[MapLoss]) -> None:
    student = [x.requires_grad_() for x in maps(TEACHER, 1)]
    value = kind(TEACHER, TEACHER)([x.detach() for x in student], student)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert all(x.grad is None or x.grad.abs().max() < 1e-5 for x in student)


@pytest.mark.parametrize("kind", [AB, FSP])
def test_after_its_own_stage_it_leaves_the_student_alone(kind: type[MapLoss]) -> None:
    student = [x.requires_grad_() for x in maps(STUDENT, 1)]
    value = kind(TEACHER, STUDENT)(maps(TEACHER, 2), student)
    value.backward()
    assert value.item() == 0
    assert all(x.grad is None or not x.grad.any() for x in student)


def test_the_paraphraser_is_fixed_once_it_is_trained() -> None:
    torch.manual_seed(0)
    loss = staged(FT(TEACHER, STUDENT))
    optimizer = torch.optim.SGD([p for p in loss.parameters() if p.requires_grad], 0.5, weight_decay=0.1, fused=True)

    def step(stage: bool) -> tuple[float, list[torch.Tensor]]:
        loss.pretraining = stage
        value = loss(maps(TEACHER, 2), maps(STUDENT, 1))
        optimizer.zero_grad()
        value.backward()
        moved = [p.grad.clone() for p in loss.parameters() if p.requires_grad]
        optimizer.step()
        return value.item(), moved

    first, _ = step(True)
    trained = [p.clone() for p in loss.paraphraser.parameters()]
    for _ in range(10):
        last, _ = step(True)
    assert last < first
    assert any(not torch.equal(a, b) for a, b in zip(trained, loss.paraphraser.parameters(), strict=True))
    fixed = [p.clone() for p in loss.words.parameters()]
    for _ in range(3):
        _, moved = step(False)
    assert all(torch.equal(a, b) for a, b in zip(fixed, loss.words.parameters(), strict=True))
    resting = len(list(loss.paraphraser.parameters())) + len(list(loss.decoder.parameters()))
    assert sum(not grad.any() for grad in moved) == resting


def test_a_pair_is_compared_at_the_smaller_size_whichever_side_has_it() -> None:
    teacher, student = maps([(3, 4, 4)], 1), maps([(3, 8, 8)], 2)
    small = F.adaptive_avg_pool2d(student[0], 4)
    assert SP([(3, 4, 4)], [(3, 8, 8)])(teacher, student).item() == pytest.approx(
        SP([(3, 4, 4)], [(3, 4, 4)])(teacher, [small]).item(), rel=1e-6
    )


@pytest.mark.parametrize("kind", [FitNet, AT, SP, NST, VID, ASKD, FSKD, FSP, AB, FT, ReviewKD])
def test_a_teachers_maps_may_come_at_the_compared_size_already(kind: type[MapLoss]) -> None:
    torch.manual_seed(0)
    teacher, student = maps(TEACHER, 1), maps(STUDENT, 2)
    loss = staged(kind(TEACHER, STUDENT)).eval()
    # as a teacher's cache keeps them, in float32 here
    kept = [F.adaptive_avg_pool2d(t, size) for t, size in zip(teacher, loss.sizes, strict=True)]
    value = loss(kept, student)
    assert torch.equal(value, loss(teacher, student))
    assert value > 0


@pytest.mark.parametrize("kind", [FitNet, AT, SP, NST, VID, ASKD, FSKD])
def test_black_images_and_a_batch_of_one_are_finite(kind: type[MapLoss]) -> None:
    torch.manual_seed(0)
    student = [torch.zeros(1, *shape, requires_grad=True) for shape in STUDENT]
    value = kind(TEACHER, STUDENT)([torch.zeros(1, *shape) for shape in TEACHER], student)
    value.backward()
    assert math.isfinite(value.item())
    assert all(x.grad is None or x.grad.isfinite().all() for x in student)


@pytest.mark.parametrize("kind", [AT, SP, NST])
def test_a_factor_of_the_maps_changes_nothing(kind: type[MapLoss]) -> None:
    torch.manual_seed(0)
    teacher, student = ([torch.randn(6, *shape) for shape in shapes] for shapes in (TEACHER, STUDENT))
    loss = kind(TEACHER, STUDENT)
    faint = [0.01 * maps for maps in student]
    assert loss(teacher, faint).item() == pytest.approx(loss(teacher, student).item(), rel=1e-4)


def test_teacher_maps_may_come_averaged_to_a_size_between() -> None:
    """As its cache keeps them, for losses of the same run that compare them at other sizes."""
    shapes = [(3, 2, 2), (4, 1, 1)]
    teacher, student = maps([(3, 8, 8), (5, 4, 4)], 1), maps(shapes, 2)
    loss = SP([(3, 8, 8), (5, 4, 4)], shapes)
    between = [F.adaptive_avg_pool2d(t, t.shape[-1] // 2) for t in teacher]
    torch.testing.assert_close(loss(between, student), loss(teacher, student))
    with pytest.raises(ValueError, match=r"teacher map 0 is \(3, 3, 1, 1\), expected \(3, 3, 8, 8\)"):
        loss([teacher[0][..., :1, :1], teacher[1]], student)


def test_wrong_maps_are_refused_in_one_line() -> None:
    loss = AT(TEACHER, STUDENT)
    teacher, student = maps(TEACHER, 1), maps(STUDENT, 2)
    wrong = [
        ((teacher, student[:1]), r"student holds 1 maps, expected a list of 2"),
        ((teacher[:1], student), r"teacher holds 1 maps, expected a list of 2"),
        ((teacher[0], student), r"teacher holds 3 maps, expected a list of 2"),
        ((None, student), r"needs the teacher's features, got None"),
        (([x[:2] for x in teacher], student), r"teacher map 0 is \(2, 3, 8, 8\), expected \(3, 3, 8, 8\)"),
        (([teacher[0], teacher[0]], student), r"teacher map 1 is .*, expected \(3, 5, 4, 4\)"),
        (([x[:0] for x in teacher], [x[:0] for x in student]), r"the batch is empty"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=rf"^AT: {message}[^\n]*$"):
            loss(*arguments)
    for shapes in ((TEACHER[:1], STUDENT), ([], [])):
        with pytest.raises(ValueError, match=r"^AT: \d maps of the teacher and \d of the student, expected the same"):
            AT(*shapes)
    with pytest.raises(ValueError, match=r"^FSP: one stage has no flow"):
        FSP(TEACHER[:1], TEACHER[:1])


def test_the_stage_is_one_of_those_given() -> None:
    with pytest.raises(ValueError, match=r"^FitNet: stage is 2, expected -1\.\.1$"):
        FitNet(TEACHER, STUDENT, stage=2)
