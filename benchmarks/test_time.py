"""What a student gains on crops without labels where it is not trained anew, the other ways beside `crossres adapt`.

    OMP_NUM_THREADS=2 python benchmarks/test_time.py runs/signs-near/*16x16*seed0 --data $CROSSRES_DATA/gtsrb/far \\
        --out results/signs-test-time.json

Batch statistics re-estimated (Li et al. 2017), and entropy minimised over batch norm's weights, whose statistics
follow the crops, without crops that the student is not sure of (Wang et al. 2021; Niu et al. 2022). Both see the
training crops without their labels; the test crops judge.
"""

import argparse
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from crossres import load, read
from crossres.core.files import write_json
from crossres.data.images import ImageSet
from crossres.models.encoder import Encoder

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of students")
    parser.add_argument("--data", required=True, help="crops of the camera, with training and test split")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    options = parser.parse_args()
    train, test = (read(options.data, split=split, label_column="label") for split in ("train", "test"))
    rows: list[dict[str, Any]] = []
    for run in options.runs:
        encoder = load(run)
        crops, row = pixels(train, encoder), {"run": run.name, "before": top1(encoder, test)}
        for name, way in (("statistics", with_statistics), ("entropy", with_entropy)):
            torch.manual_seed(SEED)
            row[name] = top1(way(encoder, crops), test)
        rows.append(row)
        write_json(options.out, rows)
        print(row)


if __name__ == "__main__":
    main()
