"""Pages of face encoders: what they were trained on is judged as training judged it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossres.report.parts import share

HEADS = ["accuracy", "AUC", "EER", "TAR at FAR 1e-2", "TAR at FAR 1e-3", "rank-1", "mAP"]


def test_a_page_of_faces_and_objects(people: Path, runs: Path, page_of: Callable[..., Any]) -> None:
    page = page_of(people / "tiny", runs / "alone", images=2, gallery=people / "teacher")
    assert page.loads_nothing()
    assert "mathdefault" not in page.source  # a rate is a plain number
    assert page.text["h3"][:4] == ["Runs by pair accuracy", "Curves", "Runs by top-1", "Curves"]
    assert page.text["h3"][4:11] == [
        "Results",
        "The worst errors",
        "Genuine and impostor pairs",
        "Does the student keep the relations?",
        "Speed and size",
        "Learning curves",
        "What was trained",
    ]
    heads = page.text["th"]
    at = heads.index("accuracy")
    assert heads[at : at + 7] == HEADS
    rows = ["Student, LR-LR 8x8", "Teacher, HR-HR 16x16", "Teacher, LR-LR 8x8, enlarged"]
    assert heads[at + 7 : at + 11] == [*rows, "Student, HR-LR 8x8, HR by teacher"]
    document = json.loads((people / "tiny" / "result.json").read_text())
    # what training measured is what the page measures
    for key in ("accuracy", "auc", "rank1"):
        assert f"{share(document[f'{key}_best_val'])} %" in page.text["b"]
    assert page.names.count("article") == 4
    captions = [caption for caption in page.text["figcaption"] if caption[:2] in ("HR", "LR")]
    assert captions == 4 * ["HR 16x16", "LR 8x8"] + 2 * ["HR 16x16", "LR 8x8"]
    # the teacher on the student's images: judged as the student is
    tile = page.tile("teacher, enlarged")
    assert any(row.startswith(f"{rows[2]} {tile}") for each in page.tables() for row in each)
    assert {"ROC", "Similarities, student at 8x8", "Similarities, teacher at 16x16"} <= {*page.text["div"]}
    assert page.texts("span").count("genuine") == 2
    assert "These may be other images" not in page.texts("p")


def test_a_rate_has_its_own_column_wherever_a_record_has_it(
    people: Path, page_of: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(people / "tiny", run)
    path = run / "result.json"
    document = json.loads(path.read_text())
    points = {point["far"]: point for point in document["verification_last"]["tar_at_far"]}
    points[1e-2] |= {"tar": 12.34, "interval": [10.0, 15.0], "too_few": False}
    document["verification_last"]["tar_at_far"] = [{**points[1e-2], "far": 5e-4}, points[1e-1], points[1e-2]]
    path.write_text(json.dumps(document))
    page = page_of(run, images=0)
    heads, cells = page.text["th"], page.text["b"]
    at = heads.index("accuracy")
    assert heads[at : at + 7] == HEADS
    # the recorded row, the table's second, is without the rate that was not recorded
    assert cells.count("12.3 %") == 1
    row = page.source.split('<th scope="row">Recorded, last epoch</th>')[1].split("</tr>")[0]
    assert "<b>12.3 %</b>" in row.split("<td")[4]
    assert "<b>" not in row.split("<td")[5]
