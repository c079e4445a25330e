"""Contrastive representation distillation."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss, demand, demand_within
from crossres.losses.contrast import contrast, different
from crossres.losses.geometry import unit


class Bank(nn.Module):
    r"""The published memory: a student and a teacher vector for each training image, and the NCE loss of `CRD`.

    An epsilon of 1e-7 is added to each denominator; each Z is N times the first batch's mean of exp(<f, m> / tau) and
    then fixed. Computed from log P as log-sigmoids, which is the same number and cannot overflow. The options are
    those of `CRD`.
    """

    def __init__(self, width: int, tau: float, negatives: int, momentum: float, same_class: bool) -> None:
        super().__init__()
        self.width = width
        self.tau = tau
        self.negatives = negatives
        self.momentum = momentum
        self.same_class = same_class
        self.student_memory: Tensor = nn.Buffer(torch.empty(0, width))
        self.teacher_memory: Tensor = nn.Buffer(torch.empty(0, width))
        # log Z of the student's and of the teacher's scores; NaN until the first batch.
        self.log_z: Tensor = nn.Buffer(torch.full((2,), math.nan))
        # Computed from the labels by prepare(), so not part of the state.
        for name in ("position", "order", "start", "count"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64), persistent=False)

    def prepare(self, label: Tensor) -> None:
        """Allocate both (N, width) memories and sort the images by class, to draw from other classes."""
        device = self.student_memory.device
        label = label.to(device)
        size = label.shape[0]
        bound = 1 / math.sqrt(self.width / 3)
        self.student_memory = torch.empty(size, self.width, device=device).uniform_(-bound, bound)
        self.teacher_memory = torch.empty(size, self.width, device=device).uniform_(-bound, bound)
        self.log_z = torch.full((2,), math.nan, device=device)
        # Negatives are drawn from other groups: classes, or single images where a class may contrast with itself.
        group = torch.arange(size, device=device) if self.same_class else label
        _, self.position, self.count = torch.unique(group, return_inverse=True, return_counts=True)
        if len(self.count) < 2:
            raise ValueError(f"CRD: the {size} training labels hold one class, so there is no negative to draw")
        self.order = torch.argsort(self.position, stable=True)
        self.start = torch.cumsum(self.count, 0) - self.count

    def draw(self, index: Tensor) -> Tensor:
        """Return (B, negatives) images of other classes, uniform and with replacement.

        The images of one class are a run in ``order``: a number below N minus the run's length, moved past
        the run if it falls at or after its start, points at any image of another class with equal chance.
        """
        group = self.position[index, None]
        start, count = self.start[group], self.count[group]
        uniform = torch.rand(index.shape[0], self.negatives, dtype=torch.float64, device=index.device)
        place = (uniform * (self.order.shape[0] - count)).long()
        return self.order[place + count * (place >= start)]

    def scores(self, vector: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
        """Return <f, m> / tau of each vector with its chosen rows, (B, 1 + negatives)."""
        if memory.shape[0] <= chosen.shape[1] * self.width:
            # All products, then pick: less memory than a copy of the rows. The clone outlives renew().
            products = vector @ memory.clone().T
            return products.gather(1, chosen) / self.tau
        return torch.einsum("bkd,bd->bk", memory[chosen], vector) / self.tau

    def forward(self, teacher: Tensor, student: Tensor, index: Tensor | None) -> Tensor:
        """Return the loss of unit vectors (B, width) of images ``index``; in training renew their rows."""
        size = self.student_memory.shape[0]
        if index is None:
            raise ValueError("CRD: form='bank' needs the index of each sample, got None")
        if size == 0:
            raise ValueError("CRD: form='bank' needs prepare(label) with the training labels before the first step")
        demand_within("CRD", "index runs", index, size)
        chosen = torch.cat([index[:, None], self.draw(index)], dim=1)
        noise = self.negatives / size
        log_noise = math.log(noise + 1e-7)
        loss = student.new_zeros(())
        for side, (vector, memory) in enumerate(((student, self.teacher_memory), (teacher, self.student_memory))):
            scores = self.scores(vector, memory, chosen)
            with torch.no_grad():
                first = torch.logsumexp(scores.flatten(), 0) - math.log(scores.numel()) + math.log(size)
                log_z = torch.where(self.log_z[side].isnan(), first, self.log_z[side])
                if self.training:
                    self.log_z[side] = log_z
            ratio = scores - log_z - log_noise
            # log(P / (P + n)) = -softplus(-ratio) and log(m Pn / (P + n)) = log(m Pn / n) - softplus(ratio).
            rest = self.negatives * (log_noise - math.log(noise))
            loss = loss + F.softplus(-ratio[:, 0]).mean() + F.softplus(ratio[:, 1:]).sum(1).mean() + rest
        if self.training:
            self.renew(self.student_memory, student, index)
            self.renew(self.teacher_memory, teacher, index)
        return loss

    @torch.no_grad()
    def renew(self, memory: Tensor, vector: Tensor, index: Tensor) -> None:
        """Move the rows ``index`` towards ``vector`` and back to unit length."""
        mixed = memory[index] * self.momentum + vector * (1 - self.momentum)
        memory.index_copy_(0, index, unit(mixed))


class CRD(Loss):
    r"""Contrastive representation distillation (arXiv 1910.10699).

    Each side goes through its own linear layer to ``width`` and to unit length: f^t and f^s. Each is the anchor
    against the other's vectors in turn; the two terms are added.

    ``form="bank"`` is the published method: two memories of N x ``width`` and, for both anchors,

    .. math::
        L = -\frac{1}{B} \sum_b \Big[ \log \frac{P^+_b}{P^+_b + m / N}
            + \sum_{k=1}^m \log \frac{m / N}{P^-_{bk} + m / N} \Big],
        \quad P = \exp(\langle f, f' \rangle / \tau) / Z

    (details in :class:`Bank`) with m = ``negatives`` images of other classes, drawn with replacement (our reading).
    It needs ``prepare`` with the training labels and the ``index`` of each sample; its memory grows with the data
    set. Bank and Z change in training mode only.

    ``form="batch"`` is ours: InfoNCE with the batch's other samples for negatives.

    Args:
        form: "batch" or "bank".
        tau: temperature.
        width: width of the contrasted vectors.
        negatives: bank form: negatives drawn for each sample.
        momentum: bank form: share of the old row kept when it is renewed, 0..1.
        same_class_negatives: whether samples of the same class may be negatives. Without labels all may.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim), label (B,), index (B,) -> scalar.

    Raises:
        ValueError: an option out of range; in the bank form no ``prepare``, no ``index``, training labels of
            one class only and, on the CPU, an ``index`` outside the training set.
    """

    def __init__(
        self,
        teacher_dim: int,
        student_dim: int,
        *,
        form: Literal["batch", "bank"] = "batch",
        tau: float = 0.07,
        width: int = 128,
        negatives: int = 16384,
        momentum: float = 0.5,
        same_class_negatives: bool = False,
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        demand("CRD", "form", form, form in ("batch", "bank"), "'batch' or 'bank'")
        demand("CRD", "width", width, width >= 1, "width >= 1")
        demand("CRD", "negatives", negatives, negatives >= 1, "negatives >= 1")
        demand("CRD", "momentum", momentum, 0 <= momentum <= 1, "0 <= momentum <= 1")
        self.tau = demand("CRD", "tau", tau, tau > 0, "tau > 0")
        self.same_class_negatives = same_class_negatives
        self.teacher_layer = nn.Linear(teacher_dim, width)
        self.student_layer = nn.Linear(student_dim, width)
        self.bank = Bank(width, tau, negatives, momentum, same_class_negatives) if form == "bank" else None

    def prepare(self, label: Tensor) -> None:
        """Allocate the bank for the training set; the batch form needs nothing."""
        if self.bank is not None:
            self.bank.prepare(label)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        t, s = unit(self.teacher_layer(teacher)), unit(self.student_layer(student))
        if self.bank is not None:
            return self.bank(t, s, index)  # type: ignore[no-any-return]
        _, negatives = different(student, None if self.same_class_negatives else label, index)
        of_teacher = contrast(t @ s.T / self.tau, negatives, "softmax").mean()
        of_student = contrast(s @ t.T / self.tau, negatives, "softmax").mean()
        return of_student + of_teacher
