import pytest
from PIL import Image

from crossres.commands.demo import demo
from crossres.core.errors import CrossresError


@pytest.mark.filterwarnings("ignore")
def test_demo_writes_models_figure_and_report(tmp_path):
    pytest.importorskip("mlxtend")
    runs = tmp_path / "demo"
    (runs / "teacher").mkdir(parents=True)
    (runs / "teacher" / "result.json").write_text("{}")  # of an earlier demo
    (runs / "thesis.txt").write_text("mine")
    said = demo(runs, seeds=1, device="cpu", teacher_epochs=1, student_epochs=1)
    assert [s["lr_size"] for s in said["students"]] == [7, 7, 4, 4]
    assert {s["method"] for s in said["students"]} == {"ce", "ce+kd+crrcd"}
    assert [p["size"] for p in said["enlarged"]] == [7, 4]
    assert said["teacher"]["top1_last"] > 20  # ten digits; it learns something in one epoch
    assert (runs / "thesis.txt").read_text() == "mine"
    report = (runs / "report.md").read_text()
    for student in said["students"]:
        assert f"{student['top1_last']:.2f}" in report
        assert (runs / student["name"] / "model" / "model.safetensors").exists()
    assert "one seed says nothing of noise" in report
    with Image.open(runs / "figure.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("L").getcolors(2**16)) > 20


def test_another_run_called_teacher_is_not_replaced(tmp_path):
    (tmp_path / "teacher").mkdir()
    for config in ("data: crops\n", "model: {name: vgg8}\n", "lr_size: 8\n", "no_option: 1\n"):
        (tmp_path / "teacher" / "config.yaml").write_text(config)
        with pytest.raises(CrossresError, match="is no run of the demo, which would replace it; give another --runs"):
            demo(tmp_path)
    assert [path.name for path in (tmp_path / "teacher").iterdir()] == ["config.yaml"]
