"""Do short runs of every kind and write their numbers; a second call on other source compares them, digit by digit.

    python benchmarks/same_numbers.py record before.json      # at one commit
    python benchmarks/same_numbers.py compare before.json     # at another, on the same machine

Every loss on digits, and the judgements of what was trained. With CROSSRES_DATA also 25 classes of CIFAR-100 for two
epochs and faces of LFW for one. Prints each number that differs and exits with 1 where any does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

#: Keys of a document that are no measurement, or measure the machine; config and its hash name options that may go.
LEFT_OUT = {
    *("seconds", "images_per_second", "peak_memory_mb", "machine", "versions", "commit", "config", "config_sha256"),
    *("milliseconds", "path", "bytes", "losses", "name", "model", "degradation", "onnx_input", "file", "teacher"),
}
#: Before the options of every command had one language.
OLD = find_spec("crossres.judging") is not None
#: The name of the loss, by version.
PAPER = "crrcd_paper" if find_spec("crossres.losses.crrcd_paper") else "crrcd"

LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "labels": {},
    "crrcd": {
        "kd": {"weight": 1, "temperature": 4, "decay": True},
        PAPER: {"weight": 4, "tau": 0.2, "critic": "softmax", "anchors": 16},
    },
    "crrcd-sigmoid": {PAPER: {"weight": 1, "critic": "sigmoid"}},
    "kd": {"kd": {"weight": 1, "temperature": 4}},
    "crd": {"crd": {"weight": 0.8, "tau": 0.07, "form": "batch"}},
    "crd-bank": {"crd": {"weight": 0.8, "tau": 0.07, "form": "bank", "negatives": 256}},
    "crcd": {"crcd": {"weight": 1, "tau": 0.05}},
    "review": {"review": {"weight": 5, "warm_up": 0.083}},
    "fskd": {"fskd": {"weight": 20}},
    "ft": {"ft": {"weight": 500, "pretrain": 0.5}},
    "ab": {"ab": {"weight": 1, "pretrain": 0.5}},
    "fsp": {"fsp": {"weight": 1, "pretrain": 0.5}},
    "horkd": {"horkd": {"weight": 25, "pair": 1, "triplet": 2, "assistant": 64}},
    "dkd": {"dkd": {"weight": 1, "alpha": 1, "beta": 8, "temperature": 4, "warm_up": 0.083}},
    "dist": {"dist": {"weight": 1, "beta": 2, "gamma": 2, "tau": 4}},
    "cosface": {"cosface": {"weight": 0.2, "scale": 30}},
    **{
        name: {name: {"weight": weight}}
        for name, weight in {
            **{"askd": 5, "at": 62.5, "cc": 100, "fitnet": 100, "nst": 50, "pkt": 30000, "rkd": 1, "sp": 3000},
            **{"vid": 1, "octuplet": 1, "cosine": 8, "similarity": 4, "arcface": 0.2, "adaface": 0.2},
        }.items()
    },
}
CLASSES = [
    "apple",
    "beaver",
    "bicycle",
    "bridge",
    "can",
    "chair",
    "cockroach",
    "cup",
    "flatfish",
    "hamster",
    "lamp",
    "lizard",
    "motorcycle",
    "oak_tree",
    "palm_tree",
    "plain",
    "possum",
    "road",
    "seal",
    "skyscraper",
    "squirrel",
    "table",
    "tiger",
    "tulip",
    "willow_tree",
]


def crossres(*words: str) -> str:
    """Run a command in a process of its own; return what it printed."""
    done = subprocess.run([sys.executable, "-m", MAIN, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"crossres {' '.join(words)}\n{done.stderr}")
    return done.stdout


MAIN = "crossres.cli" if OLD else "crossres.commands.main"


def trained(work: Path, command: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train a run from a config file; return its ``result.json``."""
    print(name, file=sys.stderr, flush=True)
    config = work / f"{name}.yaml"
    config.write_text(yaml.safe_dump({"runs": str(work), **options}))
    crossres(*command.split(), "--config", str(config), "--name", name)
    document: dict[str, Any] = json.loads((work / name / "result.json").read_text())
    return document


def judged(*words: str) -> Any:
    """Return what a judging command prints with ``--json``."""
    print(" ".join(words[:2]), file=sys.stderr, flush=True)
    return json.loads(crossres(*words, "--json"))


def digits(work: Path) -> Iterator[tuple[str, Any]]:
    base = {"data": "digits", "augment": {"shift": 2, "flip": False}}
    train = {"epochs": 2, "batch_size": 128}
    teacher = {**base, "model": {"name": "resnet20"}, "train": train, "losses": {"ce": {"weight": 1}}}
    yield "digits teach", trained(work, "teach", "teacher", teacher)
    student = {**base, "lr_size": 7, "teacher": str(work / "teacher"), "model": {"name": "resnet8"}, "train": train}
    for name, losses in LOSSES.items():
        options = {**student, "losses": {"ce": {"weight": 1}, **losses}}
        yield f"digits {name}", trained(work, "distill", name, options)
    options = {**student, "lr_size": [5, 9], "losses": {"ce": {"weight": 1}, **LOSSES["crrcd"]}}
    options["train"] = {**train, "ema": 0.9, "images_per_class": 4, "schedule": "cosine", "optimizer": "adamw"}
    options |= {"degradation": {"preset": "realistic"}, "teacher_views": "mirrored", "teacher_cache": False}
    options["train"]["learning_rate"] = 0.002
    yield "digits realistic", trained(work, "distill", "realistic", options)
    run = str(work / "crrcd")
    changed = ("--degradation", "preset=realistic") if OLD else ("--degradation.preset", "realistic")
    yield "evaluate", judged("evaluate", run, "digits", "--sizes", "4,7,14")
    yield "evaluate realistic", judged("evaluate", run, "digits", *changed)
    yield "evaluate teacher", judged("evaluate", str(work / "teacher"), "digits", "--sizes", "7,14")
    yield "transfer", judged("transfer", run, "digits")
    for precision in ("float32", "int8"):
        file = str(work / f"{precision}.onnx")
        yield f"export {precision}", judged("export", run, "--out", file, "--precision", precision)


def cifar(work: Path, data: Path) -> Iterator[tuple[str, Any]]:
    base = {"data": str(data / "cifar100"), "images": {"label_column": "fine_label", "classes": CLASSES}}
    base |= {"hr_size": 32, "augment": {"shift": 4, "flip": True}}
    train = {"epochs": 2, "batch_size": 128}
    teacher = {**base, "model": {"name": "resnet8x4"}, "train": {**train, "epochs": 1}}
    yield "cifar teach", trained(work, "teach", "cifar-teacher", teacher)
    student = {**base, "lr_size": 8, "teacher": str(work / "cifar-teacher"), "model": {"name": "resnet8x4"}}
    for name in ("crrcd", "review", "crd"):
        options = {**student, "train": train, "losses": {"ce": {"weight": 1}, **LOSSES[name]}}
        yield f"cifar {name}", trained(work, "distill", f"cifar-{name}", options)


def few_faces(data: Path, folder: Path) -> None:
    """Write some people of LFW with several images each."""
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        shard = sorted((data / "lfw").glob(f"dev_{split}-*.parquet"))[0]
        table = pq.read_table(shard)
        names = table["identity"].to_pylist()
        several = [n for n in dict.fromkeys(names) if 3 <= names.count(n) <= 6][:40]
        folder.mkdir(exist_ok=True)
        kept = [i for i, n in enumerate(names) if n in set(several)]
        pq.write_table(table.take(kept), folder / f"{split}-00000-of-00001.parquet")


def faces(work: Path, data: Path) -> Iterator[tuple[str, Any]]:
    few_faces(data, work / "lfw")
    base = {"data": str(work / "lfw"), "images": {"label_column": "identity"}, "hr_size": 112, "lr_size": 16}
    base |= {"model": {"name": "MobileFaceNet", "embedding_dim": 128}, "train": {"epochs": 1, "batch_size": 32}}
    named = {**base, "losses": {"cosface": {"weight": 1, "scale": 30}}}
    yield "faces cosface", trained(work, "faces distill", "faces-names", named)
    sface = data.parent / "models" / "sface.onnx"
    if sface.exists():
        taught = {
            **base,
            "teacher": str(sface),
            "losses": {"cosine": {"weight": 8}, PAPER: LOSSES["crrcd"][PAPER]},
        }
        yield "faces cosine", trained(work, "faces distill", "faces", taught)
        how = ("--label_column", "identity") if OLD else ("--images.label_column", "identity")
        yield (
            "faces evaluate",
            judged("faces", "evaluate", str(work / "faces"), str(work / "lfw"), *how, "--resamples", "50"),
        )
        yield "faces export", judged("export", str(work / "faces"), "--out", str(work / "faces.onnx"))


def measured() -> Iterator[tuple[str, Any]]:
    """Do all runs; yield their documents by name."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        yield from digits(work)
        if data := os.environ.get("CROSSRES_DATA"):
            yield from cifar(work, Path(data))
            yield from faces(work, Path(data))


def differences(before: Any, after: Any, where: str) -> Iterator[str]:
    """Yield a line for each value that differs; keys that are new are none."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() - LEFT_OUT:
            yield from differences(before[key], after.get(key), f"{where}.{key}")
    elif before != after:
        yield f"{where}: {str(before)[:100]} -> {str(after)[:100]}"


def main() -> None:
    """Record or compare."""
    what, path = sys.argv[1], Path(sys.argv[2])
    before = json.loads(path.read_text()) if what == "compare" else {}
    documents, lines = {}, []
    for name, document in measured():
        documents[name] = document
        if what == "record":
            path.write_text(json.dumps(documents, indent=1))
            continue
        new = list(differences(before[name], document, name))
        print("\n".join(new) or f"{name}: equal", flush=True)
        lines += new
    if what == "compare":
        print(f"{len(documents)} of {len(before)} documents, {len(lines)} values differ")
        sys.exit(bool(lines) or len(documents) < len(before))


if __name__ == "__main__":
    main()
