"""Measure how a distillation grows with the number of images, beside a loop written by hand with torchvision.

Makes folders of small JPEGs (and the same as tar shards), trains on each for an epoch and writes rows of {what,
images, seconds_to_first_steps, images_per_second, memory_mb, mapped_mb}; the first steps are 25. Memory is the
largest sum over all processes: ``memory_mb`` what they hold, each shared page once; ``mapped_mb`` with pages of
mapped files, which the system drops when it needs them. The teacher has random weights, which takes the same time.

    python benchmarks/scale.py FOLDER [--counts 10000,100000,1000000] [--out results/bench/scale.json]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from crossres.core.devices import commit, machine, resolve_device, versions
from crossres.core.files import write_json
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import save_pretrained
from crossres.training.loop import LOOK_EVERY

SIDE, LR, BATCH, CLASSES, TEST, PER_SHARD = 32, 8, 128, 100, 1000, 10_000
#: And the student of `crossres distill`, whose training takes longer than the decoding.
STUDENT, LARGER = "resnet8", "resnet8x4"
#: Images after which the loop by hand ends: its speed is known then.
ENOUGH = 200_000
#: In the line of progress, which is shown first after so many steps.
SHOWN = b"images/s"
TRAINING = {"hr_size": SIDE, "lr_size": LR, "model.name": STUDENT, "augment.shift": 4, "augment.flip": "true"}
TRAINING |= {"train.epochs": 1, "train.batch_size": BATCH, "train.val_fraction": 0}


def pictures(count: int, seed: int) -> Iterator[bytes]:
    """Yield JPEG files of blurred noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        file = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        yield file.getvalue()


def make(folder: Path, count: int) -> None:
    """Write train/ and test/ with a folder for each class, unless they are there."""
    done = folder / "done"
    if done.exists():
        return
    for split, images, seed in (("train", count, 0), ("test", TEST, 1)):
        for name in range(CLASSES):
            (folder / split / f"{name:03}").mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(pictures(images, seed)):
            (folder / split / f"{i % CLASSES:03}" / f"{i // CLASSES:06}.jpg").write_bytes(data)
    done.touch()


def pack(folder: Path, source: Path) -> None:
    """Write the images of a folder as tar shards, mixed, unless they are there."""
    done = folder / "done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        files = sorted((source / split).rglob("*.jpg"))
        order = np.random.default_rng(0).permutation(len(files))
        for shard, start in enumerate(range(0, len(files), PER_SHARD)):
            with tarfile.open(folder / f"{split}-{shard:06}.tar", "w") as tar:
                for row in order[start : start + PER_SHARD]:
                    for suffix, data in (("jpg", files[row].read_bytes()), ("cls", files[row].parent.name.encode())):
                        member = tarfile.TarInfo(f"{row:08}.{suffix}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    done.touch()


def memory_of(process: int) -> tuple[float, float]:
    """Return the MB that a process and its children hold: of their own, and with mapped files."""
    family = _family(process)
    own = mapped = 0.0
    with suppress(OSError, KeyError):  # one of them has ended
        for each in family:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]
            pages = {name: int(value.split()[0]) / 1024 for name, value in (line.split(":") for line in lines)}
            own += pages["Pss_Anon"] + pages["Pss_Shmem"]
            mapped += pages["Pss"]
        if _family(process) == family:  # a child that begins meanwhile shares pages that were counted already
            return own, mapped
    return 0.0, 0.0


def _family(process: int) -> list[int]:
    """Return the process and all below it."""
    children: list[int] = []
    with suppress(OSError):  # it has ended
        for task in Path(f"/proc/{process}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return [process, *(each for child in children for each in _family(child))]


def watched(command: list[str], cache: Path) -> dict[str, Any]:
    """Run a command; return the seconds until its first steps are done, those in all and the largest memory."""
    master, terminal = pty.openpty()
    moments: list[float] = []
    started = time.perf_counter()
    environment = os.environ | {"COLUMNS": "200", "CROSSRES_CACHE": str(cache)}
    process = subprocess.Popen([sys.executable, *command], stderr=terminal, env=environment)
    os.close(terminal)

    def listen() -> None:
        with suppress(OSError):  # the process has ended
            while output := os.read(master, 2**16):
                if not moments and SHOWN in output:
                    moments.append(time.perf_counter() - started)

    listener = threading.Thread(target=listen)
    listener.start()
    own = mapped = 0.0
    while process.poll() is None:
        now = memory_of(process.pid)
        own, mapped = max(own, now[0]), max(mapped, now[1])
        time.sleep(0.2)
    took = time.perf_counter() - started
    listener.join()
    os.close(master)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}")
    memory = {"memory_mb": round(own), "mapped_mb": round(mapped)}
    return {"seconds_to_first_steps": round(moments[0], 2) if moments else None, "seconds": round(took, 2), **memory}


def crossres(command: str, data: Path, runs: Path, **options: Any) -> dict[str, Any]:
    """Run a command of ours on a data set."""
    words = [word for key, value in {**TRAINING, **options}.items() for word in (f"--{key}", str(value))]
    start = ["-m", "crossres.commands.main", command, str(data), "--runs", str(runs)]
    cache = runs / "indices"
    shutil.rmtree(cache, ignore_errors=True)
    if command == "cache":
        return watched([*start, *words], cache)
    shutil.rmtree(runs / "measured", ignore_errors=True)
    row = watched([*start, "--name", "measured", *words], cache)
    (epoch,) = map(json.loads, (runs / "measured/metrics.jsonl").read_text().splitlines())
    return row | {"images_per_second": round(epoch["images_per_second"])}


def by_hand(folder: Path, out: Path, workers: int) -> None:
    """Train on labels as one writes it with torchvision; write the images a second."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    shrink = transforms.Resize(LR, transforms.InterpolationMode.BICUBIC)
    shift = transforms.RandomCrop(SIDE, padding=4, padding_mode="reflect")
    chain = transforms.Compose([shift, transforms.RandomHorizontalFlip(), shrink, transforms.ToTensor()])
    images = datasets.ImageFolder(str(folder / "train"), chain)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    device = resolve_device("cpu")
    student = build_encoder(STUDENT, classes=images.classes, input_size=LR).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    began, seen = time.perf_counter(), 0
    for batch, label in loader:
        with device.autocast():
            logits = student(batch).logits
        torch.nn.functional.cross_entropy(logits.float(), label).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += len(label)
        if seen == LOOK_EVERY * BATCH:
            print(SHOWN.decode(), file=sys.stderr, flush=True)
        if seen >= ENOUGH:
            break
    out.write_text(str(seen / (time.perf_counter() - began)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the images and runs, 5 GB for each million")
    parser.add_argument("--counts", default="10000,100000,1000000", help="numbers of images")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode, of both")
    parser.add_argument("--out", type=Path, default=Path("results/bench/scale.json"))
    parser.add_argument("--by_hand", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    if chosen.by_hand:
        by_hand(folder, chosen.by_hand, chosen.workers)
        return
    runs, teacher = folder / "runs", folder / "teacher"
    names = [f"{name:03}" for name in range(CLASSES)]
    save_pretrained(build_encoder(STUDENT, classes=names, input_size=SIDE), teacher, info={"hr_size": SIDE})
    rows: list[dict[str, Any]] = []

    about = {"machine": machine(resolve_device("cpu")), "versions": versions(), "commit": commit()}
    about |= {"workers": chosen.workers, "student": STUDENT, "lr_size": LR, "batch": BATCH}
    about["by_hand_ends"] = ENOUGH

    def add(what: str, images: int, facts: dict[str, Any]) -> None:
        rows.append({"what": what, "images": images} | facts)
        write_json(chosen.out, {**about, "rows": rows})
        print(json.dumps(rows[-1]), flush=True)

    for count in map(int, chosen.counts.split(",")):
        data, shards = folder / f"images-{count}", folder / f"shards-{count}"
        make(data, count)
        pack(shards, data)
        decoding = {"images.memory_mb": 1, "images.workers": chosen.workers}
        taught = {"teacher": teacher, "method": "crrcd-images"}
        shutil.rmtree(runs / "cache", ignore_errors=True)
        row = crossres("cache", data, runs, **taught, **decoding)
        add("teacher's outputs", count, row | {"images_per_second": round(count / row["seconds"])})
        add("distillation, folder", count, crossres("distill", data, runs, **taught, **decoding))
        add("labels, folder", count, crossres("distill", data, runs, method="labels", **decoding))
        add("labels, tar shards", count, crossres("distill", shards, runs, method="labels", **decoding))
        if count <= 100_000:
            add("labels, in memory", count, crossres("distill", data, runs, method="labels"))
        if count == 100_000:
            larger = {"method": "labels", "model.name": LARGER}
            add(f"labels, tar shards, {LARGER}", count, crossres("distill", shards, runs, **larger, **decoding))
            add(f"labels, in memory, {LARGER}", count, crossres("distill", data, runs, **larger))
        out = runs / "by-hand"
        row = watched(
            [__file__, str(data), "--workers", str(chosen.workers), "--by_hand", str(out)], runs / "indices"
        )
        add("labels, ImageFolder by hand", count, row | {"images_per_second": round(float(out.read_text()))})


if __name__ == "__main__":
    main()
