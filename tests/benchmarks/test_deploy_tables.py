import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("faiss")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_gallery_benchmark_measures_what_its_table_shows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from deploy_tables import gallery_table

    out = tmp_path / "gallery.json"
    words = ("--count", "2000", "--probes", "100", "--out", str(out))
    subprocess.run([sys.executable, str(BENCHMARKS / "gallery.py"), *words], check=True)
    indexes = json.loads(out.read_text())["indexes"]
    assert indexes["exact"]["recall_at_1"] == 100
    assert all(row["recall_at_1"] >= 80 and row["own_identity_first"] >= 80 for row in indexes.values())

    said, _, head, rule, *rows = gallery_table(out).splitlines()
    assert said.startswith("2,000 embeddings of 400 drawn identities, 128 numbers each; 100 probes; faiss ")
    assert {line.count("|") for line in (head, rule, *rows)} == {9}
    for row, (kind, measured) in zip(rows, indexes.items(), strict=True):
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[0] == kind
        shown = [float(cell.replace(",", "")) for cell in cells[1:]]
        keys = ("recall_at_1", "own_identity_first", "ms_of_one", "ms_of_one_95", "ms_in_a_batch", "build_seconds")
        assert shown == pytest.approx([measured[key] for key in (*keys, "peak_memory_mb")], abs=0.51)
