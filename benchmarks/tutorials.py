"""Time the commands of docs/tutorials/own-crops.md; measure its students and those of tiny-crops.md over three seeds.

    python benchmarks/tutorials.py [own-crops] [tiny-crops]    # five minutes each -> results/tutorials/*.json

Alone on the machine: another job's threads would be in the times.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crossres.core.devices import machine, resolve_device
from crossres.core.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "tutorials"
SEEDS = (0, 1, 2)


def lines(page: str) -> list[list[str]]:
    """The shell lines of a tutorial."""
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text()
    return [shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]


def call(words: list[str], folder: str) -> str:
    """Run a line there; return what it printed."""
    program = [sys.executable, "-m", "crossres.commands.main"] if words[0] == "crossres" else [sys.executable]
    done = subprocess.run([*program, *words[1:]], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def result(folder: str, name: str) -> dict[str, Any]:
    """What a run came to."""
    document: dict[str, Any] = json.loads(Path(folder, "runs", name, "result.json").read_text())
    return document


def own_crops() -> dict[str, Any]:
    """Seconds of each line, and top-1 of both students over the seeds."""
    with tempfile.TemporaryDirectory() as folder:
        timed = []
        for words in lines("own-crops"):
            start = time.perf_counter()
            call(words, folder)
            timed.append({"line": shlex.join(words), "seconds": round(time.perf_counter() - start, 1)})
        scores: dict[str, list[float]] = {"student": [], "labels": []}
        for words in [words for words in lines("own-crops") if words[1] == "distill"]:
            for seed in SEEDS:
                call([*words[:-1], f"{words[-1]}-{seed}", "--train.seed", str(seed)], folder)
                scores[words[-1]].append(result(folder, f"{words[-1]}-{seed}")["top1_last"])
        images = result(folder, "student")["images"]
    return {"lines": timed, "top1": scores, "images": images}


def tiny_crops() -> dict[str, Any]:
    """Top-1 of the students on the test crops as they are, over the seeds."""
    with tempfile.TemporaryDirectory() as folder:
        scores: dict[str, list[float]] = {"tiny-labels": [], "more-labels": [], "taught": []}
        for words in lines("tiny-crops"):
            if words[1] not in ("distill", "evaluate"):
                call(words, folder)
            elif words[1] == "distill":
                for seed in SEEDS:
                    name = f"{words[-1]}-{seed}"
                    call([*words[:-1], name, "--train.seed", str(seed)], folder)
                    judged = json.loads(
                        call(["crossres", "evaluate", f"runs/{name}", "tiny", "--native", "--json"], folder)
                    )
                    scores[words[-1]].append(judged["top1"])
        images = {"tiny": judged["images"], **result(folder, "taught-0")["images"]}
    return {"top1": scores, "images": images}


MEASURES = {"own-crops": own_crops, "tiny-crops": tiny_crops}


def main() -> None:
    here = machine(resolve_device("cpu"))
    for name in sys.argv[1:] or MEASURES:
        text = json.dumps({"machine": here, **MEASURES[name]()}, indent=1)
        path = OUT / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file, text=text: file.write(f"{text}\n".encode()))
        print(path)


if __name__ == "__main__":
    main()
