"""Saving and loading: exact round trips, and one clear line for everything that can be wrong."""

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from crossres.core.errors import CrossresError
from crossres.core.files import part_of
from crossres.models.encoder import build_encoder, wrap
from crossres.models.pretrained import from_pretrained, push_to_hub, save_pretrained
from crossres.models.weights import weights_sha256

CLASSES = ("ant", "bee", "cat")
INFO = {"lr_size": 8, "hr_size": 32, "degradation": {"name": "area"}, "results": {"test": {"top1": 61.25}}}


def small(name="resnet8", **changes):
    encoder = build_encoder(name, **{"classes": CLASSES, "input_size": 8, **changes})
    encoder.train()(torch.rand(8, 3, 8, 8))  # Running statistics other than the fresh ones.
    return encoder.eval()


@pytest.fixture
def saved(tmp_path):
    encoder = small()
    save_pretrained(encoder, tmp_path / "student", info=INFO)
    return tmp_path / "student"


def rewrite(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet8", {}),
        ("resnet8", {"classes": (), "embedding_dim": 12, "mean": (0.1, 0.2, 1 / 3)}),
        ("resnet8", {"input_size": None}),
        ("timm:mobilenetv3_small_050", {"input_size": 16}),
    ],
)
def test_round_trip_is_exact(tmp_path, name, changes):
    encoder = small(name, **changes).to(memory_format=torch.channels_last)
    save_pretrained(encoder, tmp_path / "deep" / "student", info=INFO)
    random_state = torch.get_rng_state()
    loaded = from_pretrained(tmp_path / "deep" / "student")
    assert torch.equal(torch.get_rng_state(), random_state)
    images = torch.rand(4, 3, 16, 16)
    expected, found = encoder(images), loaded(images)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-5, atol=1e-6)
    state = encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(loaded.mean, encoder.mean)
    assert (loaded.classes, loaded.input_size) == (encoder.classes, encoder.input_size)
    assert {key: loaded.info[key] for key in INFO} == INFO
    assert not loaded.training
    assert weights_sha256(loaded) == weights_sha256(encoder)
    assert os.listdir(tmp_path / "deep") == ["student"]


def test_info_survives_a_second_round(saved):
    first = from_pretrained(saved)
    save_pretrained(first, saved)
    assert from_pretrained(saved).info == first.info == INFO


def test_the_folder_holds_the_encoder_alone(saved):
    assert sorted(os.listdir(saved)) == ["README.md", "config.json", "model.safetensors"]
    assert set(load_file(saved / "model.safetensors")) == set(small().state_dict())


def test_saving_over_a_folder_keeps_other_files(saved):
    (saved / "notes.txt").write_text("mine")
    other = small(classes=("x", "y"))
    save_pretrained(other, saved)
    assert (saved / "notes.txt").read_text() == "mine"
    assert from_pretrained(saved).classes == ("x", "y")
    assert from_pretrained(saved).info == {}


def test_the_card_holds_only_recorded_numbers(saved, tmp_path):
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: crossres\n")
    assert "| test / top1 | 61.25 |" in card
    assert "- accuracy" in card
    assert "license" not in card
    save_pretrained(small(), tmp_path / "bare")
    card = (tmp_path / "bare" / "README.md").read_text()
    assert "None were recorded" in card
    assert "metrics" not in card


def test_numbers_that_json_lacks(tmp_path):
    info = {"loss": float("nan"), "tau": torch.tensor(0.5), "folder": Path("here"), "seeds": (1, 2)}
    save_pretrained(small(), tmp_path / "s", info=info)
    assert from_pretrained(tmp_path / "s").info == {
        "loss": None,
        "tau": 0.5,
        "folder": "here",
        "seeds": [1, 2],
    }


@pytest.mark.parametrize(
    ("info", "message"), [({"x": object()}, "info.x is object"), ({"mean": 1}, "info holds 'mean'")]
)
def test_info_that_cannot_be_kept(tmp_path, info, message):
    with pytest.raises(CrossresError, match=message):
        save_pretrained(small(), tmp_path / "s", info=info)
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(CrossresError, match="there is no folder"):
        from_pretrained(tmp_path / "none")


def test_hub_id_offline(monkeypatch):
    import huggingface_hub

    def offline(*_args, **_kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CrossresError, match="no model of that name could be fetched from the Hugging Face Hub"):
        from_pretrained("someone/student")


def test_hub_id(monkeypatch, saved):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_kwargs: str(saved))
    assert from_pretrained("someone/student").classes == CLASSES
    rewrite(saved, architecture={"name": "own.package:net"})
    with pytest.raises(CrossresError, match="would run code"):
        from_pretrained("someone/student")


def test_push(monkeypatch):
    sent = {}

    def upload(repo_id, folder_path, **_kwargs):
        sent[repo_id] = sorted(os.listdir(folder_path))

    monkeypatch.setattr("huggingface_hub.create_repo", lambda repo_id, **_kwargs: f"https://hub/{repo_id}")
    monkeypatch.setattr("huggingface_hub.upload_folder", upload)
    assert push_to_hub(small(), "someone/student") == "https://hub/someone/student"
    assert sent == {"someone/student": ["README.md", "config.json", "model.safetensors"]}
    monkeypatch.setattr("huggingface_hub.upload_folder", lambda **_kwargs: 1 / 0)
    with pytest.raises(CrossresError, match=r"cannot push to the Hub model 'someone/student' \(division"):
        push_to_hub(small(), "someone/student")


def test_hub_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CrossresError, match="needs huggingface_hub"):
        from_pretrained("someone/student")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is broken"),
        ("[" * 200_000, "config.json is broken"),
        ("[]", "not a JSON object"),
        ("{}", "no 'format_version'"),
    ],
)
def test_broken_config(saved, text, message):
    (saved / "config.json").write_text(text)
    with pytest.raises(CrossresError, match=message):
        from_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2, this crossres reads 1"),
        ({"classes": "ant"}, "cannot be right"),
        ({"mean": 0.5}, "cannot be right"),
        ({"lr_size": "x"}, "cannot be right"),
        ({"lr_size": [8]}, "cannot be right"),
        ({"hr_size": [32]}, "cannot be right"),
        ({"range": "ab"}, "cannot be right"),
        ({"range": 5}, "cannot be right"),
        ({"test_fraction": "x"}, "cannot be right"),
        ({"input_size": 10**9}, "cannot be right"),
        ({"architecture": {"name": "resnet8", "embedding_dim": 10**9}}, "cannot be right"),
        ({"architecture": {"name": "resnet8", "embedding_dim": 1.5}}, "cannot be right"),
        ({"architecture": {"name": "resnet9"}}, "unknown model 'resnet9'; did you mean"),
        ({"architecture": {"name": "resnet14"}}, "does not fit the architecture 'resnet14': .*missing"),
        ({"architecture": {"name": "resnet8x4"}}, "differ in shape, first 'backbone.conv1.weight'"),
        ({"classes": ["a", "b"]}, "classifier of 3 classes, the encoder one of 2"),
        ({"model_sha256": "0" * 64}, "and config.json do not match"),
    ],
)
def test_a_config_that_does_not_fit(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(CrossresError, match=message):
        from_pretrained(saved)


def test_missing_files(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CrossresError, match=r"there is no model.safetensors"):
        from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(CrossresError, match=r"there is no config.json"):
        from_pretrained(saved)


@pytest.mark.parametrize("keep", [0, 5, 2000, -10])
def test_truncated_weights(saved, keep):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CrossresError, match="truncated or not a safetensors file"):
        from_pretrained(saved)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_a_pickle_in_place_of_the_weights_is_not_run(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (saved / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CrossresError, match="not a safetensors file"):
        from_pretrained(saved)
    torch.save(Trap(), saved / "model.safetensors")
    with pytest.raises(CrossresError, match="not a safetensors file"):
        from_pretrained(saved)
    assert not Path("trapped").exists()


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, existing):
    folder = tmp_path / "student"
    first = small()
    if existing:
        save_pretrained(first, folder)
    calls = []

    def full(_descriptor):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrossresError, match="No space left on device; what was there is unchanged"):
        save_pretrained(small(), folder)
    assert os.listdir(tmp_path) == (["student"] if existing else [])
    if existing:
        assert weights_sha256(from_pretrained(folder)) == weights_sha256(first)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "student").write_text("")
    with pytest.raises(CrossresError, match="it is a file; name a folder"):
        save_pretrained(small(), tmp_path / "student")


class OwnNet(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))


def test_a_wrapped_module_comes_back_with_the_module(tmp_path):
    encoder = wrap(OwnNet(), classes=CLASSES, input_size=8)
    save_pretrained(encoder, tmp_path / "s", info=INFO)
    with pytest.raises(CrossresError, match=r"wraps .*OwnNet: give it as"):
        from_pretrained(tmp_path / "s")
    loaded = from_pretrained(tmp_path / "s", backbone=OwnNet())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(images).logits, encoder.eval()(images).logits)
    assert loaded.architecture == encoder.architecture
    with pytest.raises(CrossresError, match=r"differ in shape, first 'backbone.conv.weight'"):
        from_pretrained(tmp_path / "s", backbone=OwnNet(5))


def test_weights_of_another_file(saved):
    state = load_file(saved / "model.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, saved / "model.safetensors")
    with pytest.raises(CrossresError, match=r"and config.json do not match"):
        from_pretrained(saved)


def test_the_digest_is_the_same_in_another_process(saved):
    imports = "from crossres import load; from crossres.models.weights import weights_sha256"
    code = f"{imports}; print(weights_sha256(load({str(saved)!r})))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == weights_sha256(from_pretrained(saved))


def test_the_digest_sees_every_change(saved):
    encoder = from_pretrained(saved)
    before = weights_sha256(encoder)
    assert weights_sha256(encoder.to(memory_format=torch.channels_last)) == before
    encoder.input_size = 16
    assert weights_sha256(encoder) != before
    encoder.input_size = 8
    with torch.no_grad():
        encoder.backbone.conv1.weight[0, 0, 0, 0] += 1e-6
    assert weights_sha256(encoder) != before


def test_code_that_a_model_names_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "from crossres.models.backbones import BACKBONES\nfrom torch import nn\n\n"
        "def net(num_classes):\n    return nn.Sequential(BACKBONES['resnet8'](), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    encoder = build_encoder("own_net:net", classes=CLASSES, input_size=8).eval()
    save_pretrained(encoder, tmp_path / "model")
    images = torch.rand(2, 3, 8, 8)
    again = from_pretrained(tmp_path / "model", trust_code=True)
    assert torch.equal(again(images).logits, encoder(images).logits)
    sys.modules.pop("own_net")
    (tmp_path / "own_net.py").write_text("raise SystemExit('ran')")
    with pytest.raises(CrossresError, match=r"would run code 'own_net:net'; if you trust it, set trust_code"):
        from_pretrained(tmp_path / "model")


def test_what_a_killed_save_left_is_swept(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for number in (int(ended.stdout), os.getpid()):  # also of a process of this one's number
        part = tmp_path / part_of(tmp_path / "model").name.replace(f".{os.getpid()}.", f".{number}.")
        part.mkdir()
        (part / "config.json").write_text("half")
    save_pretrained(small(), tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    assert "half" not in (tmp_path / "model" / "config.json").read_text()
