"""Plain checkpoints of weights: every usual wrapping is read, everything else is named."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import build_encoder, wrap
from crossres.models.weights import load_weights

CLASSES = ("ant", "bee", "cat")


def small(**changes):
    return build_encoder("resnet8", **{"classes": CLASSES, "input_size": 8, **changes})


def bare(encoder, head="fc"):
    """The weights as a plain network with its own linear layer would save them."""
    return {
        key.replace("backbone.", "").replace("classifier", head): value for key, value in encoder.state_dict().items()
    }


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(value, second[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("head", ["fc", "linear", "classifier", "head", "head.fc", "classifier.0"])
def test_names_of_the_final_layer(tmp_path, head):
    source, encoder = small(), small()
    torch.save(bare(source, head), tmp_path / "w.pt")
    load_weights(encoder, tmp_path / "w.pt")
    assert same(source, encoder)


@pytest.mark.parametrize(
    "around",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    ],
)
def test_wrappings(tmp_path, around):
    source, encoder = small(), small()
    torch.save(around(bare(source)), tmp_path / "w.pth")
    load_weights(encoder, tmp_path / "w.pth")
    assert same(source, encoder)


def test_an_encoders_own_weights(tmp_path):
    source, encoder = small(), small()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(encoder, tmp_path / "w.safetensors")
    assert same(source, encoder)


def test_an_encoder_without_classifier_leaves_the_head_out(tmp_path):
    source, encoder = small(), small(classes=())
    torch.save(bare(source), tmp_path / "w.pt")
    load_weights(encoder, tmp_path / "w.pt")
    assert same(encoder, source)


def test_the_layer_that_wrap_cut_off_is_known(tmp_path):
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 3))

    source, encoder = net(), wrap(net(), classes=CLASSES, input_size=8)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(encoder, tmp_path / "w.pt")
    assert torch.equal(encoder.classifier.weight, source[3].weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: bare(small(classes=tuple("abcde"))), "classifier of 5 classes, the encoder one of 3"),
        (lambda: {"other.weight": torch.rand(2)}, "missing, first 'backbone.conv1.weight'; 1 are unknown"),
        (lambda: [1, 2], "holds list, not weights by name"),
        (lambda: {"epoch": 3}, "holds no weights"),
        (
            lambda: {**bare(small()), "fc.weight": torch.eye(3).to_sparse()},
            "'fc.weight' is sparse, quantised or without",
        ),
        (
            lambda: {**bare(small()), "fc.weight": torch.empty(3, 3, device="meta")},
            "'fc.weight' is sparse, quantised",
        ),
        (lambda: {"model": bare(small()), "opt": argparse.Namespace(lr=1)}, "holds more than weights"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, content, message):
    torch.save(content(), tmp_path / "w.pt")
    encoder = small()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(CrossresError, match=message):
        load_weights(encoder, tmp_path / "w.pt")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CrossresError, match="there is no checkpoint"):
        load_weights(small(), tmp_path / "none.pt")
    torch.save(bare(small()), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:3000])
    with pytest.raises(CrossresError, match=r"truncated|broken"):
        load_weights(small(), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(CrossresError, match=r"truncated|broken"):
        load_weights(small(), tmp_path / "w.pt")
