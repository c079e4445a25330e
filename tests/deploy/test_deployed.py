"""The deployed network: it reads photos as Pillow resizes them, and enlarges as its encoder does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossres.deploy.deployed import Deployed, deploy
from crossres.deploy.recognizer import Recognizer
from crossres.models.encoder import Encoder, build_encoder
from crossres.models.onnx_input import OnnxInput

RNG = np.random.default_rng(0)


def small_encoder(side: int) -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=("a", "b"), input_size=side).eval()
    encoder.info = {"lr_size": 8, "hr_size": 16}
    return encoder


@pytest.mark.parametrize("kernel", ["area", "bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_reading_is_pillows(fit: str, kernel: str) -> None:
    encoder = small_encoder(8)
    network = Deployed(encoder, replace(deploy(encoder).facts, fit=fit, kernel=kernel))
    pillow = {"area": 4, "bilinear": 2, "bicubic": 3, "lanczos": 1, "nearest": 0}[kernel]
    for height, width in ((32, 32), (40, 31), (33, 57)):
        image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if fit == "crop":
            side = min(height, width)
            left, top = (width - side) / 2, (height - side) / 2
            expected = image.resize((8, 8), pillow, box=(left, top, left + side, top + side))
        elif fit == "squash":
            expected = image.resize((8, 8), pillow)
        else:
            scale = 8 / max(height, width)
            inner = round(width * scale), round(height * scale)
            expected = Image.new("RGB", (8, 8))
            expected.paste(image.resize(inner, pillow), ((8 - inner[0]) // 2, (8 - inner[1]) // 2))
        outputs = network.read(torch.from_numpy(np.array(image))[None])[0].permute(1, 2, 0) * 255
        # Pillow rounds between its two passes, too
        assert np.abs(outputs.numpy() - np.asarray(expected)).max() <= 2


def test_a_network_that_enlarges_gets_what_its_encoder_would_make_of_the_lr_image() -> None:
    encoder = small_encoder(16)
    photo = torch.from_numpy(RNG.integers(0, 256, (2, 12, 10, 3), dtype=np.uint8))
    network, small = deploy(encoder), deploy(small_encoder(8))
    assert network.read(photo).shape == (2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(photo)[0], encoder(small.read(photo)).embedding, atol=1e-4, rtol=1e-4)


def test_an_onnx_face_model_from_elsewhere_answers_with_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    strong = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.Flatten(), torch.nn.Linear(100, 6))
    torch.onnx.export(strong.eval(), (torch.zeros(1, 3, 12, 12),), tmp_path / "strong.onnx", verbose=False)
    recognizer = Recognizer.load(tmp_path / "strong.onnx", onnx_input=OnnxInput(colours="bgr"))
    photo = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    (answer,) = recognizer.predict(photo)
    with torch.no_grad():
        expected = strong(torch.from_numpy(photo[..., ::-1].copy()).permute(2, 0, 1)[None].float())[0]
    np.testing.assert_allclose(answer.embedding, expected.numpy(), rtol=1e-3, atol=1e-3)
    assert (recognizer.facts.task, answer.label) == ("faces", None)
    assert recognizer.embed(RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)).shape == (1, 6)
