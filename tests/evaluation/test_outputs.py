"""An encoder's outputs on a set of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossres import CrossresError, Degradation, Encoder, build_encoder
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.evaluation.outputs import embed, predict, sizes_of

CLASSES = ("dark", "middle", "light")


def grey(count: int = 30) -> ImageSet:
    """Noise of three brightnesses."""
    label = np.arange(count) % 3
    noise = np.random.default_rng(0).integers(0, 80, (count, 32, 32, 3)) + 80 * label[:, None, None, None]
    return ImageSet(ArrayItems(noise.astype(np.uint8)), label, CLASSES, "grey")


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder("resnet8", classes=CLASSES, input_size=8)


def test_predict_goes_in_order_and_leaves_the_encoder_as_it_was(encoder: Encoder) -> None:
    served = Loader(grey(), hr_size=32, lr_size=8, shift=4, flip=True, batch_size=7)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for training in (True, False):
        encoder.train(training)
        logits = predict(encoder, served)
        assert encoder.training is training
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert logits.shape == (30, 3)
        assert logits.dtype == torch.float32
        assert not logits.requires_grad
    encoder.eval()
    (batch,) = served.ordered(batch_size=30)
    with torch.no_grad():
        expected = encoder(batch.lr).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predict(encoder, served, batch_size=4), expected, rtol=1e-5, atol=1e-5)


def test_predict_in_bfloat16_is_close_and_float32(encoder: Encoder) -> None:
    served = Loader(grey(), hr_size=32, lr_size=8)
    low = predict(encoder, served, lambda: torch.autocast("cpu", torch.bfloat16))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, predict(encoder, served), rtol=0.1, atol=0.1)
    assert not torch.equal(low, predict(encoder, served))


def test_the_embeddings_are_the_encoders_at_its_low_resolution(encoder: Encoder) -> None:
    loader = Loader(grey(12), hr_size=16, lr_size=8, degradation=Degradation(kernel="area"))
    calls: list[tuple[int, int]] = []
    embeddings = embed(encoder, loader, batch_size=5, progress=lambda *call: calls.append(call))
    small = torch.cat([batch.lr for batch in loader.ordered()])
    assert small.shape == (12, 3, 8, 8)
    with torch.no_grad():
        expected = encoder.eval()(small).embedding
    assert np.allclose(embeddings, expected.numpy(), atol=1e-5)
    assert (embeddings.shape, embeddings.dtype) == ((12, encoder.embedding_dim), np.float32)
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_the_sizes_of_a_training(encoder: Encoder) -> None:
    assert sizes_of(encoder) == (8, 8, 8)  # its input size, where it says nothing else
    encoder.info = {"hr_size": 32, "lr_size": [4, 8]}
    assert sizes_of(encoder) == (32, 4, 8)
    encoder.info, encoder.input_size = {}, None
    with pytest.raises(CrossresError, match=r"^the model does not say its hr_size; save it with info="):
        sizes_of(encoder)
