"""What students gain from crops without labels of places that they never saw: `crossres adapt`, and two other ways.

    python benchmarks/adapted.py runs/signs-near/*seed? --data $CROSSRES_DATA/gtsrb/far --out results/signs-adapted

Half of the test tracks, of each class, gives the crops, without their labels; the other half judges. No student was
trained on frames of either, near or far. The other ways train nothing anew: batch statistics re-estimated (Li et al.
2017), and entropy minimised over batch norm's weights, whose statistics follow the crops, without crops that the
student is not sure of (Wang et al. 2021; Niu et al. 2022). What is there already of the same student is left out.
"""

import argparse
import json
import math
import shutil
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from crossres import Adapt, adapt, load, read
from crossres.core.files import write_json
from crossres.data.groups import hold_out_groups
from crossres.data.images import ImageSet
from crossres.data.readers import read_unlabelled
from crossres.models.encoder import Encoder
from crossres.models.weights import weights_sha256

BATCH, EPOCHS, RATE, SEED = 128, 3, 1e-3, 0
#: Share of the largest entropy above which a crop teaches nothing (Niu et al. 2022).
UNSURE = 0.4


def norms(encoder: Encoder) -> list[_BatchNorm]:
    """Batch norms of a network."""
    return [module for module in encoder.modules() if isinstance(module, _BatchNorm)]


def pixels(images: ImageSet, encoder: Encoder) -> Tensor:
    """Images as the student reads them: float32 (N, 3, s, s) in 0..1."""
    return images.pixels(int(encoder.info["lr_size"])).float() / 255


@torch.no_grad()
def top1(encoder: Encoder, test: ImageSet) -> float:
    """Top-1 in percent."""
    number = torch.tensor([encoder.classes.index(name) for name in test.classes])
    logits = torch.cat([encoder.eval()(batch).logits for batch in pixels(test, encoder).split(BATCH)])
    return 100 * (logits.argmax(1) == number[torch.from_numpy(test.labels)]).float().mean().item()


@torch.no_grad()
def with_statistics(encoder: Encoder, crops: Tensor) -> Encoder:
    """Return a student whose batch norms have the crops' means and variances."""
    encoder = deepcopy(encoder).eval()
    for norm in norms(encoder):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in crops[torch.randperm(len(crops))].split(BATCH):
        encoder(batch)
    return encoder


def with_entropy(encoder: Encoder, crops: Tensor) -> Encoder:
    """Return a student whose batch norms' weights make it surer of those crops that it is rather sure of."""
    encoder = deepcopy(encoder).train().requires_grad_(False)
    weights = [p.requires_grad_() for norm in norms(encoder) for p in (norm.weight, norm.bias)]
    optimizer = torch.optim.Adam(weights, lr=RATE)
    for _ in range(EPOCHS):
        for batch in crops[torch.randperm(len(crops))].split(BATCH):
            logarithm = encoder(batch).logits.log_softmax(1)
            entropy = -(logarithm.exp() * logarithm).sum(1)
            sure = entropy < UNSURE * math.log(logarithm.shape[1])
            if sure.any():
                optimizer.zero_grad()
                entropy[sure].mean().backward()
                optimizer.step()
    return encoder


def halves(data: str, place: Path) -> tuple[Path, Path]:
    """Write the crops to adapt on, without labels and tracks, and those that judge; return their files."""
    table = pq.read_table(sorted(Path(data).glob("test-*.parquet")))
    tracks = table["track"].to_numpy(zero_copy_only=False).astype(str)
    judge = hold_out_groups(table["label"].to_numpy(), tracks, 0.5, SEED)
    files = place / "unlabelled.parquet", place / "judges.parquet"
    for file, part in zip(files, (table.filter(~judge).drop(["label", "track"]), table.filter(judge)), strict=True):
        pq.write_table(part, file)
    return files


def judged(run: Path, encoder: Encoder, unlabelled: Path, crops: ImageSet, judges: ImageSet) -> dict[str, object]:
    """Return top-1 on the crops that judge, of a run's student and of what each way makes of it."""
    few = pixels(crops, encoder)
    row: dict[str, object] = {"crops": len(crops), "before": top1(encoder, judges)}
    for name, way in (("statistics", with_statistics), ("entropy", with_entropy)):
        torch.manual_seed(SEED)
        row[name] = top1(way(encoder, few), judges)
    name = f"{run.name}-halves"
    shutil.rmtree(run.parent / name, ignore_errors=True)  # of a benchmark that was stopped
    result = adapt(Adapt(run=str(run), crops=str(unlabelled), name=name))
    return row | {"adapt": top1(load(result["adapted"]), judges), "sure": result["crops"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of students")
    parser.add_argument("--data", required=True, help="frames of the camera, test-*.parquet with tracks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, a JSON file each")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        unlabelled, judges = halves(options.data, Path(folder))
        sets = read_unlabelled(unlabelled), read(judges, split="all", label_column="label")
        for run in options.runs:
            file, encoder = options.out / f"{run.name}.json", load(run)
            student = {"run": run.name, "weights": weights_sha256(encoder)}
            if not file.exists() or json.loads(file.read_text())["weights"] != student["weights"]:
                write_json(file, student | judged(run, encoder, unlabelled, *sets))
                print(file.read_text())


if __name__ == "__main__":
    main()
