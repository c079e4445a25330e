"""On a GPU a step of any method computes there alone: nothing in it waits for the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossres.config.options import Train
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.losses import LOSSES
from crossres.losses.base import Shape
from crossres.models.cache import TeacherCache
from crossres.models.encoder import build_encoder
from crossres.models.stages import capture_maps, paired_stages
from crossres.training.distiller import Distiller, build_losses
from crossres.training.loop import optimizer_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")

COUNT, CLASSES = 96, [str(i) for i in range(5)]
OPTIONS: dict[str, dict[str, Any]] = {"crd": {"form": "bank", "negatives": 64}}


@pytest.mark.parametrize("name", LOSSES)
def test_no_step_waits_for_the_host(name: str) -> None:
    torch.manual_seed(0)
    place = torch.device("cuda")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(ArrayItems(pixels), rng.integers(0, 5, COUNT), CLASSES, "noise")
    loader = Loader(
        images, hr_size=32, lr_size=8, batch_size=32, device=place, shift=4, flip=True, zoom=0.1, colour=0.2
    )
    student = build_encoder("resnet8x4", classes=CLASSES, input_size=8).to(place)
    teacher = build_encoder("wrn_16_2", classes=CLASSES, input_size=32).to(place).eval()
    maps: tuple[list[Shape], list[Shape]] = ([], [])
    paths: list[str] = []
    if LOSSES[name].reads == "features":
        paths, ours = paired_stages(teacher, student, None, None)
        maps = capture_maps(teacher, paths, 32), capture_maps(student, ours, 8)
    losses = build_losses({"ce": {}, name: OPTIONS.get(name, {})}, teacher, student, maps)
    for loss in losses.values():
        loss.to(place).prepare(loader.label)
    distiller = Distiller(student, losses, dict.fromkeys(losses, 1.0))
    optimizer = optimizer_of(distiller, Train())
    stored = {
        "embedding": torch.randn(2 * COUNT, teacher.embedding_dim, device=place),
        "logits": torch.randn(2 * COUNT, len(CLASSES), device=place).half(),
    }
    for path, shape in zip(paths, maps[0], strict=True):
        stored[path] = torch.randn(2 * COUNT, *shape, device=place).half()
    cache = TeacherCache([stored], COUNT, place)
    batches = loader.epoch(0)

    def step() -> torch.Tensor:
        batch = next(batches)
        with torch.autocast("cuda", torch.bfloat16):
            terms, _ = distiller(batch.lr, cache(batch.index, batch.view, batch.place), batch.label, batch.index)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.detach()

    step()  # what is made once may wait
    for progress in (0.0, 0.5):  # in a stage of its own, where it has one, and after it
        distiller.progress = progress
        torch.cuda.set_sync_debug_mode("error")
        try:
            total = step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert bool(torch.isfinite(total))
