"""Run the demo, keep what it measured and draw its picture anew: python benchmarks/demo.py (three minutes)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from crossres.bench.demo import demo, draw_demo
from crossres.config.judging import Demo
from crossres.core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT, PICTURE = ROOT / "results/demo.json", ROOT / "docs/demo.png"


def main() -> None:
    """Write results/demo.json and docs/demo.png."""
    with tempfile.TemporaryDirectory() as folder:
        measured = demo(Demo(runs=folder))
    write_json(RESULT, measured)
    draw_demo(measured["students"], measured["teacher"], measured["enlarged"], PICTURE)


if __name__ == "__main__":
    main()
