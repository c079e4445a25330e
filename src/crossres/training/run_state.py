"""What a run is made of, and what its training leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crossres.config.experiment import Experiment
from crossres.data.loader import Loader
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder
from crossres.training.distiller import Distiller
from crossres.training.task import Task


@dataclass
class PreparedRun:
    """Everything a run needs, read and checked before its first step."""

    config: Experiment
    task: Task
    student: Encoder
    teacher: Encoder | None
    cache: TeacherCache | None
    distiller: Distiller
    train: Loader
    val: Loader | None
    test: Loader
    facts: dict[str, Any]


@dataclass
class History:
    """What a training leaves behind for its result."""

    last: dict[str, Tensor]
    best: dict[str, Tensor]
    best_epoch: int
    seconds: float
    images_per_second: float
    epochs: list[dict[str, Any]]
