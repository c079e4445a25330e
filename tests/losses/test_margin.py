"""The margin heads against their published formulas, a sample at a time in float64, and at the ends of the cosine."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from crossres.losses.adaface import AdaFace
from crossres.losses.arcface import ArcFace
from crossres.losses.cosface import CosFace

DIM, SIZE, IDENTITIES = 5, 8, 4


def built(kind, **options):
    torch.manual_seed(0)
    loss = kind(1, DIM, **options)
    loss.prepare(torch.arange(20) % IDENTITIES)
    return loss


def batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(SIZE, DIM, generator=generator) * torch.linspace(0.5, 3, SIZE)[:, None]
    return student.requires_grad_(), torch.randint(IDENTITIES, (SIZE,), generator=generator)


def naive(loss, student, label, mean=None, deviation=None):
    """The loss and, for AdaFace, the running mean and deviation of the lengths after it."""
    weights = loss.prototypes.double()
    lengths = [float(e.detach().norm()) for e in student]
    now = sum(lengths) / SIZE
    spread = math.sqrt(sum((x - now) ** 2 for x in lengths) / (SIZE - 1))
    keep = 0 if mean is None else getattr(loss, "momentum", 0)
    mean = keep * (mean or 0) + (1 - keep) * now
    deviation = keep * (deviation or 0) + (1 - keep) * spread
    total = 0
    for e, y, length in zip(student.double(), label.tolist(), lengths, strict=True):
        cosines = [e @ w / e.norm() / w.norm() for w in weights]
        theta = torch.arccos(cosines[y])
        if isinstance(loss, CosFace):
            cosines[y] = torch.cos(theta) - loss.margin
        elif isinstance(loss, ArcFace):
            beyond = float(theta.detach()) + loss.margin > math.pi
            cosines[y] = (
                torch.cos(theta) - loss.margin * math.sin(loss.margin) if beyond else torch.cos(theta + loss.margin)
            )
        else:
            quality = max(-1, min(1, (length - mean) / (deviation / loss.concentration + 1e-3)))
            cosines[y] = torch.cos(theta - loss.margin * quality) - loss.margin * (quality + 1)
        logits = [loss.scale * c for c in cosines]
        total = total + torch.logsumexp(torch.stack(logits), 0) - logits[y]
    return total / SIZE, mean, deviation


@pytest.mark.parametrize("scale", [8.0, 64.0])
@pytest.mark.parametrize("kind", [CosFace, ArcFace, AdaFace])
def test_equals_the_formula(kind, scale):
    loss = built(kind, scale=scale)
    mean = deviation = None
    for seed in range(3):
        student, label = batch(seed)
        twin = student.detach().clone().requires_grad_()
        value = loss(None, student, label)
        ours = torch.autograd.grad(value, (student, loss.prototypes))
        expected, mean, deviation = naive(loss, twin, label, mean, deviation)
        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-5)
        theirs = torch.autograd.grad(expected, (twin, loss.prototypes))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        if kind is AdaFace:
            assert [float(loss.mean), float(loss.deviation)] == pytest.approx([mean, deviation], rel=1e-5)


@pytest.mark.parametrize("kind", [CosFace, ArcFace, AdaFace])
@pytest.mark.parametrize("direction", [1, -1, 0])
def test_at_the_ends_of_the_cosine_nothing_is_nan(kind, direction):
    loss = built(kind)
    label = torch.arange(IDENTITIES)
    student = (direction * loss.prototypes.detach() * 3).requires_grad_()
    value = loss(None, student, label)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert loss.prototypes.grad.isfinite().all()


def test_without_margin_it_is_the_normalised_softmax():
    student, label = batch()
    heads = [built(CosFace, margin=0.0), built(ArcFace, margin=0.0), built(AdaFace, margin=0.0)]
    cosine = F.normalize(student) @ F.normalize(heads[0].prototypes).T
    expected = F.cross_entropy(64 * cosine, label)
    for head in heads:
        torch.testing.assert_close(head(None, student, label), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [CosFace, ArcFace, AdaFace])
def test_a_margin_makes_the_own_identity_harder_and_is_monotone_in_the_cosine(kind):
    loss = built(kind)
    cosine = torch.linspace(-0.999, 0.999, 400)
    z = loss.with_margin(cosine, torch.full((400,), 2.0))
    if kind is ArcFace:  # a known step down at the angle pi - m
        assert (z <= cosine).all()
        z = z[cosine > -math.cos(loss.margin)]
    else:
        assert (z < cosine).all()
    assert (z.diff() > 0).all()


def test_a_label_beyond_the_training_sets_is_refused():
    student, _ = batch()
    with pytest.raises(ValueError, match=r"^ArcFace: labels run from 9 to 9, expected 0..3$"):
        built(ArcFace)(None, student, torch.full((SIZE,), 9))
