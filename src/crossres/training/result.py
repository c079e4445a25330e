"""What a run leaves behind: the judged model and result.json."""

import json
from dataclasses import asdict
from typing import Any

import torch

from crossres.config.record import base_name, portable, sha256
from crossres.core.devices import Device, machine, peak_memory_mb, versions
from crossres.core.files import to_json, write_json
from crossres.data.groups import encoded_groups
from crossres.losses import LOSSES
from crossres.models.pretrained import save_pretrained
from crossres.training.loop import TrainingLoop


def finish(loop: TrainingLoop, device: Device) -> dict[str, Any]:
    """Judge the last and the best weights on the test set, save the best as ``model/``, write ``result.json``.

    Which epoch is saved was chosen on the validation split; no test image is judged before. The first process writes.

    Returns:
        The document of ``result.json``.
    """
    run, config, facts = loop.run, loop.run.config, loop.run.facts
    scores = _scores(loop, device)
    numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
    common = {
        **{key: facts[key] for key in ("task", "hr_size", "lr_size", "data_sha256", "teacher")},
        "method": "+".join(sorted(config.terms, key=list(LOSSES).index)),
        "dataset": base_name(config.data),
        "degradation": asdict(config.distillation.degradation.resolved()) if config.distillation else None,
        "precision": device.precision,
        "versions": versions(),
    }
    document: dict[str, Any] = {
        **common,
        **{key: facts[key] for key in ("images", "images_in_both", "skipped", "start_sha256", "teacher_maps")},
        "commit": facts["commit"],
        "name": config.name,
        "losses": config.terms,
        "student": {
            "name": portable(config)["model"]["name"],
            "parameters": sum(p.numel() for p in run.student.parameters()),
        },
        "seed": config.train.seed,
        "epochs": run.epochs,
        **scores,
        **_course(loop),
        **_peaks(device),
        "machine": machine(device),
        "config_sha256": sha256(config),
        "config": portable(config),
    }
    info = {
        **common,
        "fit": config.images.fit,
        **{key: facts[key] for key in ("seen", "natural", "adapted")},
        **run.task.calibrate(run.student, run.val),
        "test_fraction": config.images.test_fraction,
        "group": config.images.group,
        "range": config.images.range,
        "val_fraction": config.train.val_fraction,
        "results": {
            **numbers,
            "epochs": run.epochs,
            "seed": config.train.seed,
            "test_images": len(run.test.label),
            "these_weights": f"{next(iter(numbers)).removesuffix('_last')}_best_val (epoch {loop.best_epoch})",
        },
    }
    document = json.loads(to_json(document))  # what is returned now and what is read later are equal
    if loop.fabric.global_rank == 0:
        save_pretrained(run.student, config.folder / "model", info=info)
        write_json(config.folder / "result.json", document)
    return document


def _peaks(device: Device) -> dict[str, float | None]:
    on_gpu = device.torch.type == "cuda"
    gpu = {"peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 2**20} if on_gpu else {}
    return {"peak_memory_mb": peak_memory_mb(), **gpu}


def _scores(loop: TrainingLoop, device: Device) -> dict[str, Any]:
    """Return what the test says of the last and of the best weights; the student is left with the best."""
    run = loop.run
    scores: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    for which, weights in (("last", loop.weights()), ("best_val", loop.best)):
        run.student.load_state_dict(weights)
        if which == "last" or loop.best_epoch < run.epochs:
            judged = run.task.judge(run.student, run.test, run.val, device.autocast)
        scores |= {f"{key}_{which}": value for key, value in judged.items()}
    return scores | encoded_groups(run.test.images)


def _course(loop: TrainingLoop) -> dict[str, Any]:
    """Return how the training went: what chose the epoch, and how long it took."""
    task, rows, train = loop.run.task, loop.rows, loop.run.train
    chosen_by = task.chosen_by
    return {
        "compared_by": task.compared_by,
        "chosen_by": chosen_by,
        "best_epoch": loop.best_epoch,
        f"{chosen_by}_best": rows[loop.best_epoch - 1].get(chosen_by),
        f"{chosen_by}_last": rows[-1].get(chosen_by),
        f"{chosen_by}_by_epoch": [row[chosen_by] for row in rows if chosen_by in row],
        "batch_size": train.batch_size,
        "seconds": sum(row["seconds_with_validation"] for row in rows),
        "images_per_second": train.steps * train.batch_size * len(rows) / sum(row["seconds"] for row in rows),
    }
