"""`crossres match`: what a simulated camera did is found again, and written as options that distill takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from crossres import CrossresError, Degradation, Distill, Match, match
from crossres.commands.main import main
from crossres.config.reading import read
from crossres.data.degrade import degrade
from crossres.data.jpeg import quality_of

COUNT = 250
CAMERA = {"kernel": "bicubic", "blur": 0.6, "noise": 0.03, "brightness": 0.8, "contrast": 1.2, "saturation": 0.7}


def textures(seed: int) -> torch.Tensor:
    """Images with the spectrum of photos (amplitude falls as 1 / frequency), in colours: float (COUNT, 3, 32, 32)."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))) + 1 / 32
    noise = np.fft.fft2(rng.normal(size=(COUNT, 3, 32, 32)) * rng.uniform(0.5, 1.5, (COUNT, 3, 1, 1)))
    images = np.fft.ifft2(noise / radius).real
    grey = images.mean(1, keepdims=True)
    images = 0.45 + 0.2 * (0.8 * grey + 0.4 * images) / images.std() + rng.normal(0, 0.08, (COUNT, 3, 1, 1))
    return torch.from_numpy(images.clip(0, 1)).float()


def saved(images: torch.Tensor, folder: Path, **options: Any) -> Path:
    folder.mkdir()
    ending = "jpg" if options else "png"
    for number, image in enumerate((images * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number:03}.{ending}", **options)
    return folder


def shot(seed: int, **options: Any) -> torch.Tensor:
    """Crops of other scenes by one camera."""
    ranges = {name: value if isinstance(value, str) else (value, value) for name, value in options.items()}
    return degrade(textures(seed), 16, Degradation(**ranges), torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(textures(0), tmp_path_factory.mktemp("match") / "photos")


@pytest.fixture(scope="module")
def matched(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("matched")
    crops = saved(shot(1, **CAMERA), folder / "crops")
    return folder, match(Match(hr=str(photos), crops=str(crops), out=str(folder / "camera.yaml")))


def test_a_simulated_camera_is_found_again(matched: tuple[Path, dict[str, Any]]) -> None:
    _, result = matched
    assert (result["hr_size"], result["lr_size"], result["images"]) == (32, 16, {"hr": COUNT, "crops": COUNT})
    for name in ("blur", "noise", "brightness", "contrast", "saturation"):
        assert result[name] == pytest.approx(CAMERA[name], rel=0.2), name
    assert result["jpeg"] > 95
    assert result["auc_before"] > 0.95
    assert result["auc_after"] < 0.65


def test_crops_of_many_sizes(photos: Path, tmp_path: Path) -> None:
    """Few are large: sizes that are spread evenly would pass for another blur."""
    blurred = Degradation(**{name: value if name == "kernel" else (value, value) for name, value in CAMERA.items()})
    folder = tmp_path / "crops"
    folder.mkdir()
    sides = 8 + np.random.default_rng(0).geometric(0.3, COUNT).clip(0, 8)
    for number, (scene, side) in enumerate(zip(textures(1), sides.tolist(), strict=True)):
        crop = degrade(scene[None], side, blurred, torch.Generator().manual_seed(number))[0]
        pixels = (crop * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    result = match(Match(hr=str(photos), crops=str(folder), out=str(tmp_path / "camera.yaml")))
    assert result["lr_size"] == [9, 16]
    for name in ("blur", "noise", "brightness", "contrast", "saturation"):
        assert result[name] == pytest.approx(CAMERA[name], rel=0.25), name
    assert result["auc_after"] < 0.65


def test_its_file_is_what_distill_takes(matched: tuple[Path, dict[str, Any]]) -> None:
    folder, result = matched
    tree = yaml.safe_load((folder / "camera.yaml").read_text())
    config = read(Distill, tree, {"data": "digits"})
    assert (config.hr_size, config.lr_size, config.images.fit) == (None, 16, "crop")
    low, high = config.degradation.blur or (0, 0)
    assert low < result["blur"] < high
    assert Image.open(folder / "camera.png").size > (500, 200)


def test_a_file_of_another_version_is_named(refused: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text("# estimated by crossres match 9.9.9; crossres distill --config camera.yaml takes it\nglow: 3\n")
    assert refused("distill", "--config", str(file)).endswith(
        "(crossres match 9.9.9 wrote it, this is 0.1.0: match anew)"
    )
    # also where nothing in it is refused: what an option means may have changed
    file.write_text(
        "# estimated by crossres match 9.9.9; crossres distill --config camera.yaml takes it\nlr_size: 8\n"
    )
    assert main(["distill", "--config", str(file), "--print_config"]) == 0
    assert capsys.readouterr().err == f"{file}: crossres match 9.9.9 wrote it, this is 0.1.0: match anew\n"


def test_jpeg_is_read_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (torch.nn.functional.avg_pool2d(textures(seed), 2) for seed in (0, 2))  # small ones take less time
    photos = saved(ours, tmp_path / "photos")
    blurred = degrade(theirs, 8, Degradation(blur=(0.3, 0.3)), torch.Generator().manual_seed(2))
    crops = saved(blurred, tmp_path / "crops", quality=60, subsampling=0)
    out = tmp_path / "camera.yaml"
    assert main(["match", str(photos), str(crops), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["jpeg"], result["jpeg_from_files"]) == (60, True)
    assert result["degradation"]["jpeg"] == [60, 60]  # several cameras give such crops: its blur may be another
    assert result["auc_after"] < 0.6


@pytest.mark.parametrize("quality", [5, 30, 50, 75, 95, 100])
def test_the_quality_of_a_file(quality: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, quality=quality)
    assert quality_of(Image.open(path).quantization[0]) == quality


def test_what_says_nothing_of_a_camera_is_refused(photos: Path, tmp_path: Path) -> None:
    def line(crops: Path, **options: Any) -> str:
        with pytest.raises(CrossresError) as caught:
            match(Match(hr=options.pop("hr", str(photos)), crops=str(crops), out=str(tmp_path / "o.yaml"), **options))
        return str(caught.value)

    small = shot(3, blur=0.3)[:30]
    (tmp_path / "empty").mkdir()
    assert line(tmp_path / "empty").startswith(f"{tmp_path / 'empty'} ")
    one = saved(small[:1], tmp_path / "one")
    assert line(one) == f"{one}: 1 image; an estimate needs at least 20"
    alike = saved(small[:1].expand(30, -1, -1, -1), tmp_path / "alike")
    assert line(alike) == "alike: the crops are all alike; give crops of different scenes"
    flat = saved(torch.linspace(0, 1, 30)[:, None, None, None].expand(-1, 3, 16, 16), tmp_path / "flat")
    assert line(flat) == "flat: most crops are of one colour; there is nothing to estimate from"
    crops = saved(small, tmp_path / "crops")
    assert line(photos, hr=str(crops)) == (
        f"{crops}: HR images of 16 pixels are smaller than the crops' 32; give larger ones, or a smaller --lr_size"
    )
    assert line(crops, lr_size=3).startswith("lr_size 3: a crop of fewer than 4 pixels")
    assert line(crops, hr_size=8) == "lr_size 16 is larger than hr_size 8; choose lr_size <= 8"
    assert line(crops, seed=-1) == "seed: -1 is too small"
    with pytest.raises(CrossresError, match=r"^out: .*/o\.png is not a YAML file; name one, such as camera\.yaml$"):
        match(Match(hr=str(photos), crops=str(crops), out=str(tmp_path / "o.png")))
    (tmp_path / "o.png").mkdir()
    assert line(crops) == f"out: {tmp_path / 'o.png'}, the picture beside it, is a folder; name another file"
    assert not (tmp_path / "o.yaml").exists()


def test_a_camera_that_no_estimate_comes_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops of 16 bits under one range, of other scenes, with every second row black: nothing imitates that."""
    photos = saved(textures(0)[:60, :, ::2, ::2], tmp_path / "photos")
    folder = tmp_path / "crops"
    folder.mkdir()
    for number, scene in enumerate(textures(1)[:60, 0, ::4, ::4]):
        grey = (scene * 4095).round().numpy().astype(np.uint16)
        grey[::2] = 0
        Image.fromarray(grey).save(folder / f"{number}.png")
    out = tmp_path / "camera.yaml"
    found = {}
    monkeypatch.setattr("crossres.commands.match.match", lambda options: found.setdefault("camera", match(options)))
    words = ["match", str(photos), str(folder), "--range", "[0,4095]", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "no estimate came nearer than plain shrinking: train on the crops instead" in printed
    # also where an estimate is the nearest
    found["camera"]["only_shrunk"] = False
    assert main(words) == 0
    assert "where they are matched (0.5: it cannot): train on the crops instead" in capsys.readouterr().out
    assert "jpeg" not in printed
    tree = yaml.safe_load(out.read_text())
    assert (tree["images"], tree["degradation"]["kernel"]) == ({"fit": "crop", "range": [0, 4095]}, "bicubic")
