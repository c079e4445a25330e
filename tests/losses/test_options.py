"""Loss options by name, read without torch; the check of their values; the dict of losses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor, nn

from crossres.losses import LOSSES
from crossres.losses.base import Loss, demand
from crossres.losses.maps import MapLoss
from crossres.losses.options import Option, check_options, loss_options, needs_label, needs_teacher, reads

WITHOUT_TORCH = """
import json, sys
from crossres.losses import LOSSES
from crossres.losses.options import loss_options, needs_label, needs_teacher, reads
facts = {n: [needs_teacher(n), needs_label(n), reads(n), [o.name for o in loss_options(n)]] for n in LOSSES}
assert "torch" not in sys.modules
print(json.dumps(facts))
"""


class Base(Loss):
    """A base class of a user's own.

    Args:
        scale: a factor.
    """

    needs_label = True

    def __init__(
        self, teacher_dim: int, student_dim: int, *, scale: float = 2.0, mode: Literal["a", "b"] = "a"
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.scale = demand(type(self).__name__, "scale", scale, scale > 0, "scale > 0")
        self.mode = mode

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor, index: Tensor | None) -> Tensor:  # noqa: ARG002
        return self.scale * student.square().mean()


class Inheriting(Base):
    """It has its options from its base class.

    Args:
        mode: one of
            two.
    """


class Attending(Loss):
    def __init__(self, teacher_dim: int, student_dim: int, *, heads: int = 8) -> None:
        super().__init__(teacher_dim, student_dim)
        self.attention = nn.MultiheadAttention(student_dim, heads)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor, index: Tensor | None) -> Tensor:  # noqa: ARG002
        return self.attention(student, student, student)[0].mean()


class AttendingMaps(MapLoss):
    def __init__(self, teacher_dim: Any, student_dim: Any, *, heads: int = 8) -> None:
        super().__init__(teacher_dim, student_dim)
        self.attention = nn.ModuleList(nn.MultiheadAttention(shape[0], heads) for shape in student_dim)

    def compute(self, teacher: Any, student: Any, label: Tensor, index: Tensor | None) -> Tensor:  # noqa: ARG002
        return student[0].mean()


class Computing(Base):
    def __init__(self, teacher_dim: int, student_dim: int, *, scale: float = 1.0) -> None:
        super().__init__(teacher_dim, student_dim, scale=scale)
        self.start = float(torch.ones(()))


@pytest.fixture
def own() -> Iterator[None]:
    before = dict(LOSSES.data)
    own = {"inheriting": Inheriting, "attending": Attending, "maps": AttendingMaps, "computing": Computing}
    LOSSES.update(own)
    yield
    LOSSES.data = before


def test_names_options_and_needs_are_known_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert list(facts) == list(LOSSES)
    for name, (teacher, label, outputs, options) in facts.items():
        loss = LOSSES[name]
        assert (teacher, label, outputs) == (loss.needs_teacher, loss.needs_label, loss.reads)
        assert options == [option.name for option in loss_options(name)]


@pytest.mark.usefixtures("own")
def test_what_the_source_says_is_what_the_class_says() -> None:
    of_source = {name: (loss_options(name), reads(name), needs_label(name), needs_teacher(name)) for name in LOSSES}
    LOSSES.update(dict(LOSSES))  # as if a user had put them in
    assert not any(isinstance(loss, str) for loss in LOSSES.data.values())
    assert of_source == {
        name: (loss_options(name), reads(name), needs_label(name), needs_teacher(name)) for name in LOSSES
    }


@pytest.mark.parametrize("name", LOSSES)
def test_options_are_plain_and_documented(name: str) -> None:
    for option in loss_options(name):
        assert option.help, option.name
        choices = get_args(option.type) if get_origin(option.type) else ()
        assert option.type in (int, float, bool) or all(isinstance(choice, str) for choice in choices)
        assert option.default in choices if choices else type(option.default) is option.type
    keywords = {option.name: option.default for option in loss_options(name)}
    width: Any = [(4, 4, 4)] * 2 if reads(name) == "features" else 4
    with torch.device("meta"):
        LOSSES[name](width, width, **keywords)


@pytest.mark.usefixtures("own")
def test_options_of_a_user_s_class_inherited_ones_too() -> None:
    assert loss_options("inheriting") == [
        Option("scale", float, 2.0, "a factor."),
        Option("mode", Literal["a", "b"], "a", "one of two."),
    ]
    assert (reads("inheriting"), needs_label("inheriting"), needs_teacher("inheriting")) == ("embedding", True, True)


@pytest.mark.usefixtures("own")
def test_sensible_options_of_any_loss_pass_the_check() -> None:
    for name in LOSSES:
        check_options(name, {option.name: option.default for option in loss_options(name)})
    for heads in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32):
        check_options("attending", {"heads": heads})
        check_options("maps", {"heads": heads})
    # what the check cannot build is left to the run
    check_options("computing", {})


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cee", {}, r"unknown loss 'cee'; did you mean 'ce'\?"),
        ("ce", {"smoothing": 0.1}, r".*'smoothing'.*"),
        ("kd", {"temperature": "warm"}, r".*not supported between.*"),
        ("inheriting", {"scale": 0.0}, r"Inheriting: scale is 0\.0, expected scale > 0"),
        ("computing", {"scale": -1.0}, r"Computing: scale is -1\.0, expected scale > 0"),
    ],
)
def test_what_the_check_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        check_options(name, options)


BAD_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("ce", {"label_smoothing": 1.0}),
    ("ce", {"label_smoothing": -0.1}),
    ("cosface", {"margin": 1.5}),
    ("arcface", {"scale": 0.0}),
    ("adaface", {"concentration": 0.0}),
    ("adaface", {"momentum": 1.5}),
    ("kd", {"temperature": 0.0}),
    ("dkd", {"alpha": -1.0}),
    ("dkd", {"beta": -1.0}),
    ("dkd", {"temperature": 0.0}),
    ("dist", {"beta": -1.0}),
    ("dist", {"gamma": -1.0}),
    ("dist", {"tau": 0.0}),
    ("similarity", {"tau": 0.0}),
    ("rkd", {"distance": -1.0}),
    ("rkd", {"angle": -1.0}),
    ("cc", {"gamma": 0.0}),
    ("cc", {"order": 0}),
    ("fitnet", {"stage": 1000}),
    ("at", {"power": 0.5}),
    ("vid", {"variance": 0.0}),
    ("ab", {"margin": 0.0}),
    ("ab", {"pretrain": 1.0}),
    ("ft", {"rate": 0.0}),
    ("ft", {"pretrain": 0.0}),
    ("fsp", {"pretrain": 1.0}),
    ("review", {"width": -1}),
    ("horkd", {"pair": -1.0}),
    ("horkd", {"triplet": -1.0}),
    ("horkd", {"assistant": -1}),
    ("octuplet", {"margin": 0.0}),
    ("crd", {"form": "banks"}),
    ("crd", {"tau": 0.0}),
    ("crd", {"width": 0}),
    ("crd", {"negatives": 0}),
    ("crd", {"momentum": 1.5}),
    ("crd", {"form": "queue"}),
    ("crcd", {"tau": 0.0}),
    ("crcd", {"width": 0}),
    ("crcd", {"anchors": -1}),
    ("crcd", {"critic": "nce"}),
    ("crrcd_paper", {"tau": float("nan")}),
    ("crrcd_paper", {"width": 0}),
    ("crrcd_paper", {"hidden": 0}),
    ("crrcd_paper", {"depth": 0}),
    ("crrcd_paper", {"anchors": -1}),
    ("crrcd_paper", {"critic": "nce"}),
    ("crrcd_paper", {"reduction": "none"}),
]


@pytest.mark.parametrize(("name", "option"), BAD_OPTIONS)
def test_an_option_out_of_range_is_refused_by_name(name: str, option: dict[str, Any]) -> None:
    message = rf"^{LOSSES[name].__name__}: {next(iter(option))} is [^\n]*, expected [^\n]+$"
    width: Any = [(6, 8, 8), (6, 4, 4)] if reads(name) == "features" else 6
    with pytest.raises(ValueError, match=message):
        LOSSES[name](width, width, **option)
    with pytest.raises(ValueError, match=message):
        check_options(name, option)


@pytest.mark.usefixtures("own")
def test_the_dict_gives_classes_and_takes_them() -> None:
    from crossres.losses import CRRCDPaper
    from crossres.losses import Loss as Imported
    from crossres.losses.crrcd_paper import CRRCDPaper as AT_HOME

    assert CRRCDPaper is LOSSES["crrcd_paper"] is AT_HOME
    assert Imported is Loss
    assert list(LOSSES)[-4:] == ["inheriting", "attending", "maps", "computing"]
    assert LOSSES["inheriting"] is Inheriting
    assert "nothing" not in LOSSES
    with pytest.raises(ImportError, match="Nothing"):
        from crossres.losses import Nothing  # noqa: F401
