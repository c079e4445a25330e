"""Time the way to docs/tutorials/own-crops.md and its commands; measure its students and those of tiny-crops.md.

Students are judged over three seeds, on digits that no page uses.

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

from crossres.bench.demo import write_folder
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


def others(folder: str, **how: Any) -> int:
    """Write digits that no tutorial uses, to judge on; return how many."""
    write_folder(Path(folder, "others"), images=1000, skip=1000, **how)
    return len(list(Path(folder, "others").rglob("*.png")))


def judged(folder: str, run: str, *how: str) -> float:
    """Top-1 of a student on the other digits."""
    document = json.loads(call(["crossres", "evaluate", run, "others", "--split", "all", "--json", *how], folder))
    return float(document["top1"])


def installed() -> float:
    """Seconds of a clone and of pip in a new environment: the network and pip's cache decide."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(["git", "clone", "-q", str(ROOT), "crossres"], cwd=folder, check=True)
        subprocess.run([sys.executable, "-m", "venv", "env"], cwd=folder, check=True)
        subprocess.run(["env/bin/pip", "install", "-q", "./crossres[all]"], cwd=folder, check=True)
        return round(time.perf_counter() - start, 1)


def own_crops() -> dict[str, Any]:
    """Seconds of the installation and of each line, and top-1 of both students over the seeds."""
    installing = installed()
    with tempfile.TemporaryDirectory() as folder:
        timed = []
        for words in lines("own-crops"):
            start = time.perf_counter()
            call(words, folder)
            timed.append({"line": shlex.join(words), "seconds": round(time.perf_counter() - start, 1)})
        scores: dict[str, list[float]] = {"student": [], "labels": []}
        count = others(folder)
        for words in [words for words in lines("own-crops") if words[1] == "distill"]:
            for seed in SEEDS:
                call([*words[:-1], f"{words[-1]}-{seed}", "--train.seed", str(seed)], folder)
                scores[words[-1]].append(judged(folder, f"runs/{words[-1]}-{seed}"))
        images = result(folder, "student")["images"]
    return {"install_seconds": installing, "lines": timed, "top1": scores, "images": {**images, "others": count}}


def tiny_crops() -> dict[str, Any]:
    """Top-1 of the students on the test crops as they are, over the seeds."""
    with tempfile.TemporaryDirectory() as folder:
        scores: dict[str, list[float]] = {"tiny-labels": [], "more-labels": [], "taught": []}
        count = others(folder, side=8)
        for words in lines("tiny-crops"):
            if words[1] not in ("distill", "evaluate"):
                call(words, folder)
            elif words[1] == "distill":
                for seed in SEEDS:
                    name = f"{words[-1]}-{seed}"
                    call([*words[:-1], name, "--train.seed", str(seed)], folder)
                    scores[words[-1]].append(judged(folder, f"runs/{name}", "--native"))
        images = result(folder, "taught-0")["images"]
    return {"top1": scores, "images": {**images, "others": count}}


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
