"""The methods by name: each resolves, single options change it, and the default is the measured best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossres import CrossresError, Distill, Faces, Teach
from crossres.config.experiment import IN_MEMORY
from crossres.config.methods import FACE_METHODS, METHODS
from crossres.config.reading import options_of_loss, read
from crossres.losses import LOSSES
from crossres.losses.options import needs_teacher


@pytest.mark.parametrize(
    ("kind", "method"), [*((Distill, name) for name in METHODS), *((Faces, name) for name in FACE_METHODS)]
)
def test_every_method_resolves_to_its_losses_with_every_option_of_theirs(kind: type[Distill], method: str) -> None:
    config = read(kind, {"teacher": "t", "method": method})
    expected = kind.methods[method]
    assert list(config.terms) == list(expected)  # the order is that of the draws
    for loss, options in config.terms.items():
        assert list(options) == [option.name for option in options_of_loss(loss)]
        defaults = {option.name: option.default for option in options_of_loss(loss)}
        assert options == defaults | expected[loss]
    assert config.method is None  # the losses say it all
    assert config == read(kind, {"teacher": "t"}, {"method": method})


def test_every_loss_of_a_method_is_known_and_on() -> None:
    for losses in (*METHODS.values(), *FACE_METHODS.values()):
        assert losses.keys() <= set(LOSSES)
        assert all(options["weight"] > 0 for options in losses.values())


@pytest.mark.parametrize(
    ("kind", "tree", "losses"),
    [
        (Teach, {}, METHODS["labels"]),
        (Distill, {}, METHODS["labels"]),
        (Distill, {"teacher": "t"}, METHODS["crrcd"]),
        (Distill, {"teacher": "t/sface.ONNX"}, METHODS["crrcd-images"]),
        (Distill, {"teacher": "t.npz"}, METHODS["crrcd-images"]),
        (Distill, {"teacher": IN_MEMORY}, METHODS["crrcd-images"]),
        (Distill, {"teacher": "t", "model": {"name": "my.nets:tiny"}}, METHODS["crrcd-images"]),
        (Distill, {"teacher": "t", "model": {"name": "onnx:small.onnx"}}, METHODS["crrcd-images"]),
        (Distill, {"teacher": "t", "model": {"name": "timm:resnet10t"}}, METHODS["crrcd"]),
        (Faces, {}, FACE_METHODS["cosface"]),
        (Faces, {"teacher": "t"}, FACE_METHODS["cosine"]),
    ],
)
def test_the_default_follows_from_the_teacher(kind: Any, tree: Any, losses: Any) -> None:
    config = read(kind, tree)
    assert config.terms.keys() == losses.keys()
    assert all(losses[name].items() <= options.items() for name, options in config.terms.items())


def test_the_default_of_a_folder_of_embeddings_reads_no_maps(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").touch()
    assert read(Distill, {"teacher": str(tmp_path)}).terms.keys() == METHODS["crrcd-images"].keys()


def test_the_default_of_a_distillation_is_the_measured_best() -> None:
    terms = read(Distill, {"teacher": "t"}).terms
    weights = {name: options["weight"] for name, options in terms.items()}
    assert weights == {"ce": 1.0, "crrcd_images": 4.0, "crrcd_maps": 16.0}
    assert {options["tau"] for name, options in terms.items() if name != "ce"} == {0.1}
    assert not any(options["decay"] for options in terms.values())


def test_words_change_single_options_of_a_method_and_a_weight_of_0_turns_a_loss_off() -> None:
    words = {"losses.crrcd_paper.tau": "0.1", "losses.kd.weight": "0", "losses.at.weight": "3"}
    terms = read(Distill, {"teacher": "t"}, {"method": "crrcd-paper"} | words).terms
    assert list(terms) == ["ce", "crrcd_paper", "at"]
    assert (terms["crrcd_paper"]["tau"], terms["crrcd_paper"]["critic"]) == (0.1, "softmax")
    assert terms["at"]["weight"] == 3.0


def test_a_file_changes_single_options_of_the_method_it_names() -> None:
    tree = {"teacher": "t", "method": "kd", "losses": {"kd": {"temperature": 2}, "at": {}}}
    terms = read(Distill, tree).terms
    assert {name: options["weight"] for name, options in terms.items()} == {"ce": 0.1, "kd": 0.9, "at": 1.0}
    assert terms["kd"]["temperature"] == 2.0
    # without a method, the losses that a file names are all there are
    assert list(read(Distill, {"teacher": "t", "losses": {"kd": {}}}).terms) == ["kd"]


def test_a_method_among_the_words_replaces_the_losses_of_the_file() -> None:
    tree = {"teacher": "t", "losses": {"kd": {"temperature": 2}}}
    assert read(Distill, tree, {"method": "review"}) == read(Distill, {"teacher": "t", "method": "review"})


def test_python_names_a_method_too() -> None:
    from crossres.config.reading import from_config

    config = from_config(Distill(teacher="t", method="crd", losses={"crd": {"tau": 0.1}}))
    assert config.terms["crd"].items() >= {"weight": 0.8, "tau": 0.1, "form": "batch"}.items()


@pytest.mark.parametrize(
    ("kind", "tree", "line"),
    [
        (Distill, {"method": "crcrd"}, "unknown method 'crcrd'; did you mean 'crcd'?"),
        (Faces, {"method": "labels"}, "unknown method 'labels'; "),
        (
            Distill,
            {"method": "crd"},
            "losses.crd needs a teacher; give --teacher, or losses.crd.weight 0 to learn from",
        ),
        (Teach, {"method": "at"}, "losses.at needs a teacher; use crossres distill"),
        (Distill, {"method": ["crd"]}, "method: expected a text or null, got ['crd']"),
    ],
)
def test_what_is_refused(kind: type[Teach], tree: dict[str, Any], line: str) -> None:
    with pytest.raises(CrossresError) as caught:
        read(kind, tree)
    assert str(caught.value).startswith(line)


def test_a_method_that_needs_no_teacher_trains_a_teacher() -> None:
    assert list(read(Teach, {"method": "labels"}).terms) == ["ce"]
    alone = [name for name, losses in METHODS.items() if not any(map(needs_teacher, losses))]
    for name in alone:
        read(Teach, {"method": name})
