"""The methods by name: the losses of each with the weights that the tables use.

`crossres distill --method NAME` trains one, grids name them, and single options stay settable over them
(``--losses.crrcd_maps.tau 0.2``). Weights of crrcd are ours; others without a comment are as published. All are for
8x8 and 16x16 images.
"""

from typing import Any

Losses = dict[str, dict[str, Any]]

LABELS: Losses = {"ce": {"weight": 1.0}}
#: Hinton's distillation whose weight falls to 0 over the run.
FADING_KD: Losses = {"kd": {"weight": 1.0, "temperature": 4.0, "decay": True}}
#: The paper's relations with the best options that were measured (results/cifar100); critic, weight and tau are ours.
PAPER = {"weight": 4.0, "tau": 0.2, "critic": "softmax", "anchors": 16}
#: Ours: relations between images in the teacher's own space.
BETWEEN_IMAGES: Losses = {"crrcd_images": {"weight": 4.0, "tau": 0.1}}

METHODS: dict[str, Losses] = {
    "labels": LABELS,
    "crrcd": {**LABELS, **BETWEEN_IMAGES, "crrcd_maps": {"weight": 16.0, "tau": 0.1}},
    "crrcd-images": {**LABELS, **BETWEEN_IMAGES},  # for networks without known feature maps
    "crrcd-paper": {**LABELS, **FADING_KD, "crrcd_paper": PAPER},
    "crrcd-paper-without-kd": {**LABELS, "crrcd_paper": PAPER},
    "kd": {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}},
    "kd-weight-1": {**LABELS, "kd": {"weight": 1.0, "temperature": 4.0}},
    "kd-fading": {**LABELS, **FADING_KD},
    "crd": {**LABELS, "crd": {"weight": 0.8, "tau": 0.07, "form": "batch"}},  # ours: negatives of the batch, no bank
    "crd-bank": {**LABELS, "crd": {"weight": 0.8, "tau": 0.07, "form": "bank", "negatives": 16384}},
    "crcd": {**LABELS, "crcd": {"weight": 1.0, "tau": 0.05}},  # ours: without kd beside it
    "review": {**LABELS, "review": {"weight": 5.0, "warm_up": 0.083}},  # 20 of 240 epochs
    "fskd": {**LABELS, "fskd": {"weight": 20.0}},
    "askd": {**LABELS, "askd": {"weight": 5.0}},
    "horkd": {**LABELS, "horkd": {"weight": 25.0, "pair": 1.0, "triplet": 2.0, "assistant": 64}},  # ours
    "dkd": {**LABELS, "dkd": {"weight": 1.0, "alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warm_up": 0.083}},
    "dist": {**LABELS, "dist": {"weight": 1.0, "beta": 2.0, "gamma": 2.0, "tau": 4.0}},
    "fitnet": {**LABELS, "fitnet": {"weight": 100.0}},
    "at": {**LABELS, "at": {"weight": 62.5}},  # 1000 as published, for 16 times as many cells to a map
    "sp": {**LABELS, "sp": {"weight": 3000.0}},
    "cc": {**LABELS, "cc": {"weight": 100.0}},  # ours
    "vid": {**LABELS, "vid": {"weight": 1.0}},
    "rkd": {**LABELS, "rkd": {"weight": 1.0}},
    "pkt": {**LABELS, "pkt": {"weight": 30000.0}},
    "nst": {**LABELS, "nst": {"weight": 50.0}},
    "ab": {**LABELS, "ab": {"weight": 1.0, "pretrain": 0.125}},
    "ft": {**LABELS, "ft": {"weight": 500.0, "pretrain": 0.125}},
    "fsp": {**LABELS, "fsp": {"weight": 1.0, "pretrain": 0.125}},
    "octuplet": {**LABELS, "octuplet": {"weight": 1.0}},  # ours: published alone, on trained networks
}

_NAMES: Losses = {"cosface": {"weight": 0.2, "scale": 30.0}}
_PAPER_FACES: dict[str, Any] = {"weight": 1.0, "critic": "softmax", "depth": 1}

#: Of faces; those without cosface train without names. Teachers of faces seldom have known maps.
FACE_METHODS: dict[str, Losses] = {
    "cosine": {"cosine": {"weight": 8.0}},
    "cosface": {"cosface": {"weight": 1.0, "scale": 30.0}},  # names alone
    "crrcd-images": {"crrcd_images": {**BETWEEN_IMAGES["crrcd_images"], "same_class_negatives": True}},
    "crrcd-paper": {"crrcd_paper": {**_PAPER_FACES, "same_class_negatives": True}},
    "crd": {"crd": {"weight": 1.0, "same_class_negatives": True}},
    "similarity": {"similarity": {"weight": 4.0}},
    "crrcd-images+cosface": {**BETWEEN_IMAGES, **_NAMES},
    "crrcd-paper+cosface": {"crrcd_paper": _PAPER_FACES, **_NAMES},
    "cosine+cosface": {"cosine": {"weight": 8.0}, **_NAMES},
    "cosine+crrcd-images+cosface": {"cosine": {"weight": 8.0}, **BETWEEN_IMAGES, **_NAMES},
    "cosine+crrcd-paper+cosface": {"cosine": {"weight": 8.0}, "crrcd_paper": _PAPER_FACES, **_NAMES},
}
