"""Preprocessing, capture, building by name, wrapping a network of one's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import Encoder, build_encoder, wrap

CLASSES = ("ant", "bee", "cat")


def small(**changes):
    return build_encoder("resnet8", **{"classes": CLASSES, "input_size": 8, **changes}).eval()


class OwnNet(nn.Module):
    """A user's classifier with in-place activations and a linear layer that is not the last."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.out(self.mix(self.act(self.stem(x)).mean((2, 3))))


class EmbeddingNet(nn.Module):
    """Its only Linear is not its last step."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 5)

    def forward(self, x):
        return F.normalize(self.inner(x.mean((2, 3))).tanh())


def test_preprocessing_normalises_at_the_native_size():
    encoder = small(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.rand(2, 3, 8, 8)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    assert torch.equal(encoder.preprocess(images), expected)


@pytest.mark.parametrize("size", [4, 20, 32])
def test_preprocessing_resizes_bicubic_and_stays_in_range(size):
    encoder = small()
    images = (torch.rand(2, 3, size, size) > 0.5).float()
    expected = F.interpolate(images, size=(8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    found = encoder.preprocess(images)
    assert torch.equal(found, (expected - 0.5) / 0.25)
    assert found.min() >= -2
    assert found.max() <= 2


def test_preprocessing_is_skipped_where_the_size_is_free():
    assert small(input_size=None).preprocess(torch.rand(1, 3, 6, 10)).shape == (1, 3, 6, 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_is_read(dtype):
    encoder = small()
    assert encoder(torch.rand(1, 3, 8, 8).to(dtype)).logits.dtype == torch.float32
    assert encoder.bfloat16()(torch.rand(1, 3, 8, 8).to(dtype)).embedding.dtype == torch.bfloat16


@pytest.mark.parametrize("images", [torch.rand(3, 8, 8), torch.rand(1, 1, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_other_images_are_refused(images):
    with pytest.raises(CrossresError, match="floating point images"):
        small()(images)


def test_outputs():
    encoder = small()
    outputs = encoder(torch.rand(2, 3, 8, 8))
    assert torch.equal(outputs.logits, encoder.classifier(outputs.embedding))
    assert outputs.features == {}
    assert small(classes=())(torch.rand(1, 3, 8, 8)).logits is None
    assert small(embedding_dim=10)(torch.rand(1, 3, 8, 8)).embedding.shape == (1, 10)


def test_autocast_and_channels_last_agree_with_float32():
    encoder = small().to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 8, 8)
    expected = small()
    expected.load_state_dict(encoder.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = encoder(images.contiguous(memory_format=torch.channels_last))
    assert outputs.embedding.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.logits.float(), expected(images).logits, rtol=0.05, atol=0.05)


def test_export_keeps_the_outputs():
    class Logits(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, images):
            return self.encoder(images).logits

    model = Logits(small())
    images = torch.rand(2, 3, 12, 12)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(images), model(images))
    assert exported(torch.rand(5, 3, 12, 12)).shape == (5, 3)


def test_capture_by_path():
    encoder = small()
    encoder.capture("layer1", "layer2.0")
    features = encoder(torch.rand(2, 3, 8, 8)).features
    assert {path: tuple(x.shape) for path, x in features.items()} == {
        "layer1": (2, 16, 8, 8),
        "layer2.0": (2, 32, 4, 4),
    }
    assert features["layer1"].requires_grad
    other = copy.deepcopy(encoder)
    assert set(other(torch.rand(2, 3, 8, 8)).features) == {"layer1", "layer2.0"}
    copy.deepcopy(encoder)  # no graph of the last pass is left in it
    encoder.capture()
    assert encoder(torch.rand(2, 3, 8, 8)).features == {}


def test_capture_names_the_nearest_path():
    with pytest.raises(CrossresError, match="no module 'layer9'; did you mean 'layer"):
        small().capture("layer9")


def test_captured_features_survive_in_place_modules():
    net = OwnNet()
    encoder = wrap(net, classes=CLASSES, input_size=8)
    encoder.capture("stem")
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(encoder(images).features["stem"], net.stem(encoder.preprocess(images)))


def test_a_captured_module_that_does_not_run_is_named():
    encoder = small()
    encoder.backbone.spare = nn.ReLU()
    encoder.capture("spare")
    with pytest.raises(CrossresError, match="'spare' did not run"):
        encoder(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5,)}, "3 numbers"),
        ({"std": (0.5, 0, 0.5)}, "above 0"),
        ({"classes": ("a", "b", "a")}, "'a' is given twice"),
        ({"input_size": 0}, "input_size 0"),
        ({"pretrained": True}, "no published weights"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(CrossresError, match=message):
        small(**changes)


def test_unknown_names_name_the_nearest():
    with pytest.raises(CrossresError, match="unknown model 'resnet8x5'; did you mean 'resnet8x4'"):
        build_encoder("resnet8x5", classes=CLASSES, input_size=8)


def test_wrap_keeps_the_logits_and_the_module():
    net = OwnNet().train()
    encoder = wrap(net, classes=CLASSES, input_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(encoder(images).logits, net(images))
    assert encoder.embedding_dim == 6
    assert encoder.training
    assert isinstance(net.out, nn.Linear)
    assert encoder.architecture["classifier"] == "out"
    by_path = wrap(net, classes=CLASSES, input_size=None, classifier="out")
    assert torch.equal(by_path.classifier.weight, net.out.weight)


def test_wrap_takes_a_network_without_a_final_linear_as_an_embedding():
    net = EmbeddingNet()
    images = torch.rand(2, 3, 8, 8)
    encoder = wrap(net, classes=CLASSES, input_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(encoder(images).embedding, net(images))
    assert encoder(images).logits.shape == (2, 3)
    whole = wrap(OwnNet(), classes=(), input_size=8)
    assert whole(images).embedding.shape == (2, 3)
    assert whole.classifier is None


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (OwnNet(7), {}, "'out' returns 7 outputs, but 3 classes"),
        (OwnNet(), {"classifier": "outt"}, "no nn.Linear 'outt'; did you mean 'out'"),
        (OwnNet(), {"classifier": "mix"}, "'mix' is not the module's last step"),
        (nn.Sequential(OwnNet(), nn.LogSoftmax(1)), {}, "not from a final nn.Linear"),
        (nn.Conv2d(3, 3, 3), {}, "not an embedding"),
        (nn.Linear(7, 3), {}, "cannot read images of 8x8"),
        (nn.LSTM(8, 8), {}, "cannot read images"),
        ("net", {}, "takes a torch.nn.Module, not str"),
    ],
)
def test_wrap_refuses(module, changes, message):
    with pytest.raises(CrossresError, match=message):
        wrap(module, classes=CLASSES, input_size=8, **changes)


def test_an_encoder_needs_no_architecture():
    encoder = Encoder(EmbeddingNet(), embedding_dim=5, classes=CLASSES, input_size=None)
    assert encoder(torch.rand(1, 3, 7, 9)).logits.shape == (1, 3)


def test_a_compiled_encoder_captures_and_saves(tmp_path):
    from crossres.models.pretrained import from_pretrained, save_pretrained
    from crossres.models.weights import weights_sha256

    encoder = small()
    encoder.capture("layer1")
    compiled = torch.compile(encoder, backend="eager")
    images = torch.rand(2, 3, 8, 8)
    for _ in range(2):
        found = compiled(images)
        assert torch.equal(found.features["layer1"], encoder(images).features["layer1"])
    save_pretrained(compiled, tmp_path / "s")
    loaded = from_pretrained(tmp_path / "s")
    assert weights_sha256(loaded) == weights_sha256(encoder) == weights_sha256(compiled)
