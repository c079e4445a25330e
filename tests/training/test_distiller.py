"""The distiller: named, weighted terms, gradients where they belong, and nothing of the teacher inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crossres import CrossresError
from crossres.core.types import Outputs
from crossres.losses import CE, CRD, KD, CRRCDPaper, Loss
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.stages import capture_maps
from crossres.training.distiller import Distiller, LossError, build_losses

CLASSES = ("a", "b", "c")
ALL: dict[str, dict[str, Any]] = {
    "ce": {"weight": 0.5, "label_smoothing": 0.1},
    "kd": {"weight": 2.0, "temperature": 3.0},
    "crd": {"weight": 0.25, "width": 8},
    "crrcd_paper": {"width": 8, "anchors": 0},
}
BATCH = 7


def encoder(seed: int, name: str = "resnet8", **options: Any) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(name, classes=CLASSES, input_size=None, **options)


def built(options: dict[str, dict[str, Any]], teacher: Encoder | None, student: Encoder) -> Distiller:
    torch.manual_seed(7)
    losses = build_losses(options, teacher, student)
    decaying = [name for name, given in options.items() if given.get("decay")]
    warm_up = {name: given.get("warm_up", 0.0) for name, given in options.items()}
    weights = {name: given.get("weight", 1.0) for name, given in options.items()}
    return Distiller(student, losses, weights, decaying, warm_up)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(BATCH, 3, 16, 16, generator=generator)
    return hr, hr[:, :, ::2, ::2], torch.arange(BATCH) % 3, torch.arange(BATCH) + 10


def test_terms_are_named_weighted_and_those_of_the_losses_alone() -> None:
    teacher, student = encoder(0, "resnet8x4").eval(), encoder(1)
    distiller = built(ALL, teacher, student)
    hr, lr, label, index = batch()
    of_teacher = teacher(hr)
    terms, logits = distiller(lr, of_teacher, label, index)
    assert list(terms) == list(ALL)
    outputs = student(lr)
    assert torch.equal(logits, outputs.logits)
    widths = {"ce": 3, "kd": 3, "crd": (256, 64), "crrcd_paper": (256, 64)}
    kinds = {"ce": CE, "kd": KD, "crd": CRD, "crrcd_paper": CRRCDPaper}
    weights = {"ce": 0.5, "kd": 2.0, "crd": 0.25, "crrcd_paper": 1.0}
    for name, term in terms.items():
        loss = distiller.losses[name]
        assert type(loss) is kinds[name]
        width = widths[name]
        assert (loss.teacher_dim, loss.student_dim) == (width if isinstance(width, tuple) else (width, width))
        field = "logits" if name in ("ce", "kd") else "embedding"
        alone = loss(getattr(of_teacher, field), getattr(outputs, field), label, index)
        torch.testing.assert_close(term, weights[name] * alone)
        assert term.shape == ()
        assert term > 0


def test_a_decaying_weight_falls_linearly_to_0_and_the_others_stay() -> None:
    teacher, student = encoder(0).eval(), encoder(1).eval()
    hr, lr, label, index = batch()
    distiller = built({**ALL, "kd": {**ALL["kd"], "decay": True}}, teacher, student)
    terms = []
    for progress in (0.0, 0.75, 1.0):
        distiller.progress = progress
        terms.append(distiller(lr, teacher(hr), label, index)[0])
    for name in ALL:
        falls = name == "kd"
        torch.testing.assert_close(terms[1][name], (0.25 if falls else 1) * terms[0][name])
        torch.testing.assert_close(terms[2][name], (0 if falls else 1) * terms[0][name])


def test_a_weight_that_warms_up_rises_linearly_and_stays() -> None:
    teacher, student = encoder(0).eval(), encoder(1).eval()
    hr, lr, label, index = batch()
    distiller = built({**ALL, "kd": {**ALL["kd"], "warm_up": 0.2}}, teacher, student)
    plain = built(ALL, teacher, student)(lr, teacher(hr), label, index)[0]
    for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.2, 1.0), (0.9, 1.0)):
        distiller.progress = progress
        terms = distiller(lr, teacher(hr), label, index)[0]
        torch.testing.assert_close(terms["kd"], share * plain["kd"])
        torch.testing.assert_close(terms["ce"], plain["ce"])


class Staged(Loss):
    """A loss with a stage of its own."""

    needs_teacher = False

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.pretrain = 0.5

    def compute(self, teacher: Any, student: Tensor, label: Any, index: Any) -> Tensor:  # noqa: ARG002
        return student.square().mean() + 1


def test_in_a_stage_of_its_own_a_loss_counts_once_whatever_its_weight() -> None:
    student = encoder(1).eval()
    losses = {"staged": Staged(student.embedding_dim), **build_losses({"ce": {}}, None, student)}
    distiller = Distiller(student, losses, {"staged": 200.0, "ce": 3.0})
    _, lr, label, index = batch()
    distiller.progress = 0.2
    alone, _ = distiller(lr, None, label, index)
    distiller.progress = 0.6
    after, _ = distiller(lr, None, label, index)
    assert alone["ce"] == 0
    torch.testing.assert_close(after["staged"], 200 * alone["staged"])
    assert after["ce"] > 0


def test_the_weighted_gradient_is_the_sum_of_the_terms() -> None:
    teacher, student = encoder(0).eval(), encoder(1).eval()
    hr, lr, label, index = batch()
    of_teacher = teacher(hr)

    def gradient(options: dict[str, dict[str, Any]]) -> Tensor:
        distiller = built(options, teacher, student)
        student.zero_grad()
        terms, _ = distiller(lr, of_teacher, label, index)
        torch.stack(list(terms.values())).sum().backward()
        gradient = student.backbone.conv1.weight.grad
        assert gradient is not None
        return gradient.clone()

    ce, kd = gradient({"ce": {}}), gradient({"kd": {}})
    both = gradient({"ce": {"weight": 0.3}, "kd": {"weight": 4.0}})
    torch.testing.assert_close(both, 0.3 * ce + 4.0 * kd, rtol=1e-4, atol=1e-6)


def test_the_teacher_gets_no_gradient_and_everything_trained_gets_one() -> None:
    teacher, student = encoder(0), encoder(1)
    distiller = built(ALL, teacher, student)
    hr, lr, label, index = batch()
    teacher.requires_grad_(True)  # even a teacher that nobody froze
    of_teacher = teacher.eval()(hr)
    terms, _ = distiller(lr, of_teacher, label, index)
    torch.stack(list(terms.values())).sum().backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    for name, weight in distiller.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_a_classifier_that_no_loss_reads_gets_no_gradient() -> None:
    student = encoder(1)
    distiller = built({"crrcd_paper": {}}, encoder(0), student)
    hr, lr, label, index = batch()
    terms, _ = distiller(lr, encoder(0).eval()(hr), label, index)
    terms["crrcd_paper"].backward()
    assert student.classifier is not None
    assert student.classifier.weight.grad is None


def test_labels_alone_need_no_teacher() -> None:
    student = encoder(1)
    distiller = built({"ce": {"weight": 1.0}}, None, student)
    _, lr, label, index = batch()
    terms, logits = distiller(lr, None, label, index)
    torch.testing.assert_close(terms["ce"], torch.nn.functional.cross_entropy(logits, label))
    # and are given none where there is one
    with_teacher, _ = distiller(lr, Outputs(torch.full((BATCH, 5), torch.nan)), label, index)
    torch.testing.assert_close(with_teacher["ce"], terms["ce"])


def test_an_embedding_teacher_without_classes_teaches_by_its_embedding() -> None:
    torch.manual_seed(0)
    teacher = build_encoder("resnet8", classes=(), input_size=None).eval()
    distiller = built({"ce": {}, "crrcd_paper": {"width": 8}}, teacher, encoder(1))
    hr, lr, label, index = batch()
    terms, _ = distiller(lr, teacher(hr), label, index)
    assert set(terms) == {"ce", "crrcd_paper"}
    with pytest.raises(CrossresError, match=r"^losses\.kd: "):
        build_losses({"kd": {}}, teacher, encoder(1))


def test_it_holds_the_student_and_the_losses_alone() -> None:
    teacher, student = encoder(0, "resnet8x4"), encoder(1)
    distiller = built(ALL, teacher, student)
    assert {name.split(".")[0] for name in distiller.state_dict()} == {"student", "losses"}
    ours = {name.removeprefix("student.") for name in distiller.state_dict() if name.startswith("student.")}
    assert ours == encoder(2).state_dict().keys()
    held = {id(part) for part in distiller.modules()}
    assert not held & {id(part) for part in teacher.modules()}


def test_a_gather_joins_whatever_the_losses_read() -> None:
    """Two halves gathered by hand give the terms of the whole batch, and the logits stay those of the half."""
    teacher, student = encoder(0).eval(), encoder(1).eval()
    distiller = built(ALL, teacher, student)
    hr, lr, label, index = batch()
    whole, logits = distiller(lr, teacher(hr), label, index)
    half, others = slice(0, 3), slice(3, BATCH)
    ours, theirs = student(lr[others]), teacher(hr[others])
    # in the order that the distiller gathers in
    rest = iter([ours.embedding, ours.logits, theirs.embedding, theirs.logits, label[others], index[others]])
    distiller.gather = lambda part: torch.cat([part, next(rest)])
    terms, own = distiller(lr[half], teacher(hr[half]), label[half], index[half])
    for name, term in terms.items():
        torch.testing.assert_close(term, whole[name])
    torch.testing.assert_close(own, logits[half])
    assert next(rest, None) is None


def test_maps_are_compared_of_the_images_that_the_teacher_saw_itself() -> None:
    teacher, student = encoder(0).eval(), encoder(1)
    hr, lr, label, index = batch()
    stages = ["layer2", "layer3"]
    maps = capture_maps(teacher, stages, 16), capture_maps(student, stages, 8)
    losses = build_losses({"fitnet": {}, "crrcd_images": {}}, teacher, student, maps)
    distiller = Distiller(student, losses, dict.fromkeys(losses, 1.0))
    aligned = torch.tensor([True, False, True, True, False, False, True])
    terms, _ = distiller(lr, teacher(hr), label, index, aligned)
    of_teacher, outputs = teacher(hr), student(lr)
    pairs = [[maps[aligned] for maps in o.features.values()] for o in (of_teacher, outputs)]
    assert torch.equal(terms["fitnet"], losses["fitnet"](*pairs, label[aligned], index[aligned]))
    whole = losses["crrcd_images"](of_teacher.embedding, outputs.embedding, label, index)
    assert torch.equal(terms["crrcd_images"], whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kd": {"temperature": 0.0}}, r"^losses\.kd: KD: temperature is 0\.0, expected temperature > 0$"),
        ({"crrcd_paper": {"tau": -1.0}}, r"^losses\.crrcd_paper: CRRCDPaper: tau is -1\.0"),
        ({"ce": {"smoothing": 0.1}}, r"^losses\.ce: .*smoothing"),
    ],
)
def test_a_wrong_option_names_its_loss(options: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(CrossresError, match=message):
        build_losses(options, encoder(0), encoder(1))


def test_a_loss_that_refuses_its_input_is_named() -> None:
    student = encoder(1)
    distiller = built({"ce": {}, "kd": {}}, encoder(0), student)
    hr, lr, label, index = batch()
    assert student.classifier is not None
    with torch.no_grad():
        student.classifier.bias[0] = torch.nan
    with pytest.raises(LossError, match=r"^losses\.ce: CE: student logits holds NaN or infinity") as caught:
        distiller(lr, encoder(0).eval()(hr), label, index)
    assert caught.value.name == "ce"
    assert isinstance(caught.value, CrossresError)
