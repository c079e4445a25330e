"""How near `crossres match` comes to known cameras: random ones.

    OMP_NUM_THREADS=1 python benchmarks/cameras.py $CROSSRES_DATA/cifar100 --out results/match/simulated.json

Each camera shrinks 1,000 test images to 16 pixels by a kernel, blur, noise, JPEG quality, brightness, contrast and
saturation of its own, drawn by a seed that nothing was developed on. `match` gets these crops as PNG files and the
training images. Cameras that are in the file already are not judged again.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from crossres.config.judging import Match
from crossres.core.files import write_json
from crossres.data.degradation import Degradation
from crossres.data.degrade import degrade
from crossres.data.images import ImageSet
from crossres.data.readers import read
from crossres.evaluation.camera import KERNELS
from crossres.evaluation.matching import match

SIZE, HR_SIZE, CROPS, CAMERAS, SEED = 16, 32, 1000, 20, 2026
#: Of what the cameras are drawn, evenly: from what is just visible to what leaves the object recognisable.
DRAWN = {
    "blur": (0.2, 1.2),
    "noise": (0.01, 0.06),
    "jpeg": (30.0, 95.0),
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.5, 1.5),
}


def cameras() -> list[dict[str, Any]]:
    """Draw the cameras: a kernel and a value for each of `DRAWN`."""
    rng = np.random.default_rng(SEED)
    drawn = []
    for _ in range(CAMERAS):
        values = {name: round(float(rng.uniform(*limits)), 4) for name, limits in DRAWN.items()}
        drawn.append({"kernel": str(rng.choice(KERNELS)), **values})
    return drawn


def judge(camera: dict[str, Any], test: ImageSet, hr: str, number: int) -> dict[str, Any]:
    """Let `match` estimate one camera; errors are shares of the true value."""
    values = {name: value for name, value in camera.items() if name in DRAWN}
    how = Degradation(kernel=camera["kernel"], **{name: (value, value) for name, value in values.items()})
    rows = np.random.default_rng((SEED, number)).permutation(len(test))[:CROPS]
    sharp = test.subset(np.sort(rows)).pixels(HR_SIZE).float() / 255
    shots = degrade(sharp, SIZE, how, torch.Generator().manual_seed(SEED + number))
    with tempfile.TemporaryDirectory() as folder:
        for position, shot in enumerate(shots.mul(255).round().byte().permute(0, 2, 3, 1).numpy()):
            Image.fromarray(shot).save(Path(folder) / f"{position:04}.png")
        started = time.process_time()  # of one thread, whatever else runs
        found = match(Match(hr=hr, crops=folder, out=str(Path(folder) / "camera.yaml")))
        seconds = time.process_time() - started
    errors = {name: abs(found[name] - value) / value for name, value in values.items()}
    return {
        "number": number,
        "camera": camera,
        "estimate": {name: found[name] for name in camera},
        "errors": errors,
        **{name: found[name] for name in ("auc_before", "auc_after")},
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="CIFAR-100 as parquet files, train and test")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    options = parser.parse_args()
    test = read(str(options.data), split="test", label_column="fine_label")
    with tempfile.TemporaryDirectory() as folder:  # its training images alone
        for shard in sorted(options.data.glob("**/train-*.parquet")):
            (Path(folder) / shard.name).symlink_to(shard.resolve())
        rows = json.loads(options.out.read_text()) if options.out.exists() else []
        for number, camera in enumerate(cameras()):
            if any(row["number"] == number for row in rows):
                continue
            rows.append(judge(camera, test, folder, number))
            write_json(options.out, sorted(rows, key=lambda row: row["number"]))
            print({name: round(error, 3) for name, error in rows[-1]["errors"].items()}, rows[-1]["seconds"])


if __name__ == "__main__":
    main()
