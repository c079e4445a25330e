"""Judge trained runs again: their recorded top-1, the same in their precision with float32 logits, and in float32.

python benchmarks/judged_anew.py RUN... --data $CROSSRES_DATA/cifar100   # -> results/choices/judged-anew.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from crossres import Evaluate, TestImages, evaluate
from crossres.core.files import write_atomically

OUT = Path("results/choices/judged-anew.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", required=True)
    chosen = parser.parse_args()
    rows = []
    for run in chosen.runs:
        result = json.loads(Path(run, "result.json").read_text())
        row = {"run": result["name"], "precision": result["precision"], "recorded": result["top1_best_val"]}
        images = TestImages(label_column=result["config"]["images"]["label_column"])
        for precision in (result["precision"], "float32"):
            judged = evaluate(Evaluate(model=run, data=chosen.data, images=images, precision=precision))
            row[f"anew in {precision}"] = judged["top1"]
        rows.append(row)
        print(row)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(OUT, lambda file: file.write((json.dumps(rows, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main()
