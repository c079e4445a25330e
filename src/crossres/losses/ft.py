"""Factor transfer."""

from copy import deepcopy

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.geometry import unit
from crossres.losses.maps import MapLoss, Maps, Shapes


class FT(MapLoss):
    r"""Factor transfer (arXiv 1802.04977): factors of the last map, as a paraphraser puts them.

    The paraphraser P, an autoencoder's first half, is trained alone for the first ``pretrain`` of the run; then it is
    fixed and the translator T puts the student's map into its words:

    .. math::
        L_{\text{pretrain}} = \operatorname{mean} (D(P(F^t)) - F^t)^2, \quad
        L = \operatorname{mean} \Big| \frac{P(F^t)}{|P(F^t)|} - \frac{T(F^s)}{|T(F^s)|} \Big|

    a sample's factors as one vector. P, D and T are three 3x3 convolutions with leaky relu (0.1). Published weight
    500 (the authors' code; the CRD benchmark's 200 is for another form). Outside a `Distiller`, set ``pretraining``
    to True until the paraphraser is trained.

    Args:
        rate: channels of the factors, as a share of the teacher's channels.
        pretrain: share of the training in which the paraphraser trains alone; published: 30 epochs before 240.
    """

    def __init__(
        self, teacher_dim: Shapes, student_dim: Shapes, *, rate: float = 0.5, pretrain: float = 0.125
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        demand("FT", "rate", rate, rate > 0, "rate > 0")
        self.pretrain = demand("FT", "pretrain", pretrain, 0 < pretrain < 1, "0 < pretrain < 1")
        wide, narrow = self.channels[-1]
        factors = max(1, round(wide * rate))
        self.paraphraser = _convolutions(wide, wide, factors)
        # a fixed copy is what is used: weight decay goes on shrinking the paraphraser
        self.words = deepcopy(self.paraphraser).requires_grad_(False)
        self.decoder = _convolutions(factors, factors, wide)
        self.translator = _convolutions(narrow, narrow, factors)

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        if self.pretraining:
            self.words.load_state_dict(self.paraphraser.state_dict())
            return F.mse_loss(self.decoder(self.paraphraser(teacher[-1])), teacher[-1])
        factors = unit(self.translator(student[-1]).flatten(1))
        return (unit(self.words(teacher[-1]).flatten(1)) - factors).abs().mean()


def _convolutions(width: int, middle: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((width, middle), (middle, out), (out, out)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
