"""What a run leaves behind: the judged model and result.json."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from crossres.config.experiment import Experiment
from crossres.config.record import base_name, portable, sha256
from crossres.core.devices import Device, machine, peak_memory_mb, versions
from crossres.core.files import write_json
from crossres.data.loader import Loader
from crossres.losses import LOSSES
from crossres.models.encoder import Encoder
from crossres.models.pretrained import save_pretrained

if TYPE_CHECKING:
    from crossres.training.run_state import History
    from crossres.training.task import Task


def finish(
    config: Experiment,
    task: Task,
    student: Encoder,
    history: History,
    test: Loader,
    val: Loader | None,
    device: Device,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Judge the last and the best weights on the test set, save the best as ``model/``, write ``result.json``.

    The best epoch was chosen on the validation split; no test image is judged before.

    Returns:
        The document of ``result.json``.
    """
    scores: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    for which, weights in (("last", history.last), ("best_val", history.best)):
        student.load_state_dict(weights)
        if which == "last" or history.best_epoch < config.train.epochs:
            judged = task.judge(student, test, val, device.autocast)
        scores |= {f"{key}_{which}": value for key, value in judged.items()}
    numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
    chosen_by = task.chosen_by
    degradation = asdict(config.distillation.degradation.resolved()) if config.distillation else None
    names = sorted(config.terms, key=list(LOSSES).index)
    document: dict[str, Any] = {
        "name": config.name,
        "task": facts["task"],
        "method": "+".join(names),
        "compared_by": task.compared_by,
        "chosen_by": task.chosen_by,
        "losses": config.terms,
        "dataset": base_name(config.data),
        "images": facts["images"],
        "data_sha256": facts["data_sha256"],
        "skipped": facts["skipped"],
        "teacher": facts["teacher"],
        "start_sha256": facts["start_sha256"],
        "student": {
            "name": portable(config)["model"]["name"],
            "parameters": sum(p.numel() for p in student.parameters()),
        },
        "hr_size": facts["hr_size"],
        "lr_size": facts["lr_size"],
        "degradation": degradation,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        **numbers,
        "best_epoch": history.best_epoch,
        f"{chosen_by}_best": history.epochs[history.best_epoch - 1].get(chosen_by),
        f"{chosen_by}_last": history.epochs[-1].get(chosen_by),
        f"{chosen_by}_by_epoch": [row[chosen_by] for row in history.epochs if chosen_by in row],
        "seconds": history.seconds,
        "images_per_second": history.images_per_second,
        "peak_memory_mb": peak_memory_mb(),
        **({"peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 2**20} if device.torch.type == "cuda" else {}),
        **{key: value for key, value in scores.items() if key not in numbers},
        "precision": device.precision,
        "versions": versions(),
        "machine": machine(device),
        "commit": facts["commit"],
        "config_sha256": sha256(config),
        "config": portable(config),
    }
    info = {
        "task": facts["task"],
        "hr_size": facts["hr_size"],
        "lr_size": facts["lr_size"],
        "degradation": degradation,
        "fit": config.images.fit,
        "seen": facts["seen"],
        "test_fraction": config.images.test_fraction,
        "val_fraction": config.train.val_fraction,
        "data_sha256": facts["data_sha256"],
        "precision": device.precision,
        "method": document["method"],
        "dataset": document["dataset"],
        "teacher": facts["teacher"],
        "versions": document["versions"],
        "results": {
            **numbers,
            "epochs": config.train.epochs,
            "seed": config.train.seed,
            "test_images": len(test.label),
            "these_weights": f"{next(iter(numbers)).removesuffix('_last')}_best_val (epoch {history.best_epoch})",
        },
    }
    document = json.loads(json.dumps(document))  # what is returned now and what is read later are equal
    save_pretrained(student, config.folder / "model", info=info)
    write_json(config.folder / "result.json", document)
    return document
