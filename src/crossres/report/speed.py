"""How long a network takes for an image, how many numbers it holds and how large its file is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from crossres.core.devices import Device
from crossres.models.encoder import Encoder

#: Images a network is asked for at a time.
BATCHES = (1, 64)
#: Seconds of measuring at a batch size, and passes at least.
LONG, OFTEN = 0.2, 3


@dataclass(frozen=True)
class Effort:
    """What a network costs.

    Attributes:
        side: of the images it was asked with, in pixels.
        parameters: of its network; 0 where a file keeps them to itself.
        megabytes: of its file; None where there is none at hand.
        milliseconds: an image, by batch size; the fastest of several passes, which other load disturbs least.
    """

    side: int
    parameters: int
    megabytes: float | None
    milliseconds: dict[int, float]


def effort(encoder: Encoder, side: int, source: str | Path, device: Device) -> Effort:
    """Measure an encoder that lies on the device and was read from ``source``, a file or a model's folder."""
    found = {}
    for batch in BATCHES:
        images = torch.rand(batch, 3, side, side, device=device.torch)
        took: list[float] = []
        with torch.inference_mode(), device.autocast():
            while len(took) < OFTEN or sum(took) < LONG:
                started = time.perf_counter()
                encoder(images)
                if device.torch.type == "cuda":
                    torch.cuda.synchronize(device.torch)
                took.append(time.perf_counter() - started)
        found[batch] = 1000 * min(took) / batch
    files = [Path(source), Path(source) / "model.safetensors", Path(source) / "model" / "model.safetensors"]
    size = next((file.stat().st_size / 1e6 for file in files if file.is_file()), None)
    return Effort(side, sum(p.numel() for p in encoder.parameters()), size, found)
