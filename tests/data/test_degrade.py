import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.degradation import Degradation
from crossres.data.degrade import degrade, draw, recoloured
from crossres.data.jpeg import jpeg

PILLOW = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def photos(n: int = 4, height: int = 32, width: int = 32) -> np.ndarray:
    """Smooth random colour images with some texture, uint8 (n, H, W, 3)."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(n)]
    smooth = np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in coarse])
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def as_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("kernel", PILLOW)
@pytest.mark.parametrize("size", [1, 4, 7, 8, 15, 16, 32])
def test_agrees_with_pillow(kernel, size):
    images = photos()
    ours = degrade(as_tensor(images), size, Degradation(kernel=kernel))
    pillow = np.stack([np.asarray(Image.fromarray(i).resize((size, size), PILLOW[kernel])) for i in images])
    difference = (ours - as_tensor(pillow)).abs()
    assert difference.mean() <= 1 / 255
    # Pillow rounds and clips to 8 bits between the two passes
    assert difference.max() <= 8 / 255


@pytest.mark.parametrize("kernel", ["area", "bicubic"])
def test_not_square(kernel):
    images = photos(height=40, width=24)
    ours = degrade(as_tensor(images), 12, Degradation(kernel=kernel))
    pillow = np.stack([np.asarray(Image.fromarray(i).resize((12, 12), PILLOW[kernel])) for i in images])
    assert (ours - as_tensor(pillow)).abs().mean() <= 1 / 255


def test_full_size_clean_changes_nothing():
    images = as_tensor(photos())
    assert torch.equal(degrade(images, 32), images)


def test_output_is_eight_bit():
    lr = degrade(as_tensor(photos()), 8, Degradation(preset="realistic"))
    assert torch.allclose(lr * 255, (lr * 255).round(), atol=1e-4)
    assert lr.min() >= 0
    assert lr.max() <= 1


def test_size_range_shrinks_each_sample_by_itself():
    images = as_tensor(photos(64))
    generator = torch.Generator().manual_seed(3)
    draws = draw(64, (4, 12), Degradation(), generator)
    assert draws.size.min() == 4
    assert draws.size.max() == 12
    lr = degrade(images, (4, 12), draws=draws)
    assert lr.shape == (64, 3, 12, 12)
    for i in (0, 5, 9):
        size = int(draws.size[i])
        small = degrade(images[i : i + 1], size)
        enlarged = F.interpolate(small, (12, 12), mode="bicubic", antialias=True).clamp(0, 1)
        assert (lr[i] - enlarged[0]).abs().mean() < 2 / 255


def test_size_range_degrades_each_sample_at_its_own_size():
    images = as_tensor(photos(64))
    degradation = Degradation(blur=(0.5, 0.5), jpeg=(50, 50))
    draws = draw(64, (4, 12), degradation, torch.Generator().manual_seed(3))
    lr = degrade(images, (4, 12), degradation, draws=draws)
    for i in range(16):
        small = degrade(images[i : i + 1], int(draws.size[i]), degradation)
        enlarged = F.interpolate(small, (12, 12), mode="bicubic", antialias=True).clamp(0, 1)
        difference = (lr[i] - enlarged[0]).abs()
        # a coefficient between two steps of the JPEG table may fall to the other one
        assert difference.mean() < 1 / 255
        assert difference.median() < 1e-4


def test_noise_of_a_size_range_is_as_coarse_as_the_sample():
    grey = torch.full((200, 3, 32, 32), 0.5)
    degradation = Degradation(noise=(0.1, 0.1))
    draws = draw(200, (4, 12), degradation, torch.Generator().manual_seed(0))
    lr = degrade(grey, (4, 12), degradation, draws=draws) - 0.5

    def neighbours(noise):
        return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())

    assert neighbours(lr[draws.size == 4]) > 0.7
    assert abs(neighbours(lr[draws.size == 12])) < 0.1


def test_seeded_and_sliceable():
    images = as_tensor(photos(8))
    realistic = Degradation(preset="realistic")
    first = degrade(images, 8, realistic, torch.Generator().manual_seed(1))
    again = degrade(images, 8, realistic, torch.Generator().manual_seed(1))
    other = degrade(images, 8, realistic, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draws = draw(8, (4, 8), realistic, torch.Generator().manual_seed(1))
    whole = degrade(images, (4, 8), realistic, draws=draws)
    for rows in ([slice(0, 4), slice(4, 8)], [slice(0, 1), slice(1, 6), slice(6, 8)]):
        parts = [degrade(images[row], (4, 8), realistic, draws=draws.rows(row)) for row in rows]
        # a product of matrices may round otherwise in another batch: one step of 8 bits at the most, enlarged
        assert_same_but_for_rounding(torch.cat(parts), whole)
    backwards = torch.arange(7, -1, -1)
    turned = degrade(images[backwards], (4, 8), realistic, draws=draws.rows(backwards))
    assert_same_but_for_rounding(turned.flip(0), whole)


def assert_same_but_for_rounding(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (ours - theirs).abs()
    assert difference.mean() < 0.1 / 255
    assert difference.median() < 1e-6


def test_noise_is_the_images_own():
    noise = Degradation(noise=(0.1, 0.1))
    grey = torch.full((6, 3, 16, 16), 0.5)
    draws = draw(6, 16, noise, torch.Generator().manual_seed(4))
    whole = degrade(grey, 16, noise, draws=draws) - 0.5
    for i in range(6):
        alone = degrade(grey[i : i + 1], 16, noise, draws=draws.rows(slice(i, i + 1))) - 0.5
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1.01 / 255)
        # and nobody else's, nor that of another channel or half
        others = torch.cat([whole[:i], whole[i + 1 :]])
        correlation = (others * whole[i]).mean((1, 2, 3)) / 0.01
        assert correlation.abs().max() < 0.2
        assert ((whole[i, 0] * whole[i, 1:]).mean((1, 2)) / 0.01).abs().max() < 0.3


def test_the_other_draws_do_not_depend_on_the_noise():
    with_noise, without = (
        draw(9, (4, 8), Degradation(preset="realistic", noise=noise), torch.Generator().manual_seed(0))
        for noise in (None, (0, 0))
    )
    assert torch.equal(with_noise.size, without.size)
    assert len(set(with_noise.seed.tolist())) == 9
    again = draw(9, (4, 8), Degradation(preset="realistic"), torch.Generator().manual_seed(0))
    for ours, theirs in zip(again, with_noise, strict=True):
        assert torch.equal(ours, theirs)


def test_blur_is_a_gaussian_of_lr_pixels():
    spot = torch.zeros(1, 3, 65, 65)
    spot[..., 32, 32] = 1
    blurred = degrade(spot, 65, Degradation(blur=(2.0, 2.0), kernel="area"))[0, 0]
    row = blurred[32]
    profile = torch.exp(-((torch.arange(65) - 32.0) ** 2) / 8)
    profile = profile / profile.sum()
    assert torch.allclose(row, profile[32] * profile, atol=1 / 255)
    assert torch.equal(blurred, blurred.T)  # both directions


@pytest.mark.parametrize("sigma", [0.05, 0.7, 1.4])
def test_one_blur_for_all_is_that_of_a_range(sigma):
    images = torch.rand(4, 3, 32, 20, generator=torch.Generator().manual_seed(0))
    for_all, of_each = (degrade(images, 16, Degradation(blur=(sigma, most))) for most in (sigma, sigma + 1e-7))
    assert (for_all - of_each).abs().max() <= 1.01 / 255  # one may be rounded to the other side


def test_noise_has_the_declared_deviation():
    grey = torch.full((16, 3, 32, 32), 0.5)
    noise = degrade(grey, 32, Degradation(noise=(0.1, 0.1)), torch.Generator().manual_seed(0)) - 0.5
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)
    assert abs(noise.mean().item()) < 0.002
    # a normal distribution: 68.3 % within one deviation, 95.4 % within two
    for deviations, share in ((1, 0.683), (2, 0.954)):
        assert (noise.abs() <= 0.1 * deviations).double().mean().item() == pytest.approx(share, abs=0.015)


def through_file(images, quality):
    """Pillow's decoding of its own JPEG files."""

    def one(image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
        return np.asarray(Image.open(buffer))

    return as_tensor(np.stack([one(image) for image in images]))


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
@pytest.mark.parametrize("size", [8, 12, 16, 33])
def test_jpeg_agrees_with_pillow(quality, size):
    images = photos(64, size, size)
    ours = jpeg(as_tensor(images), torch.full((64,), float(quality)))
    pillow = through_file(images, quality)
    difference = (ours - pillow).abs().mean((1, 2, 3))
    # where a coefficient lies between two steps, rounding decides for the one or the other
    assert difference.mean() <= 1.5 / 255
    assert difference.median() <= 1.1 / 255
    assert (ours - as_tensor(images)).abs().mean() > 0.2 / 255  # it does something


@pytest.mark.parametrize(("grey", "right"), [(129, 130), (127, 126), (130, 130)])
def test_jpeg_rounds_ties_as_libjpeg_does(grey, right):
    image = np.full((1, 8, 8, 3), grey, np.uint8)
    assert through_file(image, 50).mul(255).round().unique().tolist() == [right]
    assert jpeg(as_tensor(image), torch.tensor([50.0])).mul(255).round().unique().tolist() == [right]


def test_jpeg_of_saturated_colours_is_clamped_as_a_decoder_does():
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 2, (64, 8, 8, 3)) * 255).astype(np.uint8)
    ours = jpeg(as_tensor(images), torch.full((64,), 40.0))
    pillow = through_file(images, 40)
    difference = (ours - pillow).abs().mean((1, 2, 3)) * 255
    assert difference.median() <= 1.1


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "at least 1 pixel"),
        (33, "larger than hr_size 32"),
        ((9, 8), "range is empty"),
        ((0, 8), "at least 1"),
    ],
)
def test_wrong_sizes(size, words):
    with pytest.raises(CrossresError, match=words):
        degrade(torch.zeros(1, 3, 32, 32), size)


@pytest.mark.parametrize("size", [8, (5, 8)])
def test_colours_change_before_all_else(size):
    images = as_tensor(photos()) * 0.5 + 0.2
    degradation = Degradation(brightness=(0.7, 1.2), contrast=(0.8, 1.2), saturation=(0.2, 1.4), noise=(0.01, 0.02))
    draws = draw(len(images), size, degradation, torch.Generator().manual_seed(0))
    changed = degrade(images, size, degradation, draws=draws)
    plain = degrade(recoloured(images, draws.colour), size, Degradation(noise=(0.01, 0.02)), draws=draws)
    assert torch.equal(changed, plain)
    for limits, factor in zip(((0.7, 1.2), (0.8, 1.2), (0.2, 1.4)), draws.colour.T, strict=True):
        assert limits[0] <= factor.min() < factor.max() <= limits[1]
    # the other draws are those of a degradation without colours
    others = draw(len(images), size, Degradation(noise=(0.01, 0.02)), torch.Generator().manual_seed(0))
    assert torch.equal(draws.noise, others.noise)
    assert torch.equal(draws.seed, others.seed)


@pytest.mark.parametrize("size", [8, (6, 12)])
def test_a_share_is_degraded_and_the_rest_only_shrunk(size):
    hr = torch.rand(400, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    some = Degradation(blur=(0.5, 0.5), noise=(0.1, 0.1), jpeg=(20, 20), saturation=(0.2, 0.2), share=0.25)
    draws = draw(400, size, some, torch.Generator().manual_seed(1))
    plain = draws.quality == 0
    assert plain.double().mean().item() == pytest.approx(0.75, abs=0.07)
    mixed = degrade(hr, size, some, draws=draws)
    shrunk = degrade(hr, size, draws=draws)
    assert (mixed[plain] - shrunk[plain]).abs().max() <= 1.01 / 255
    assert (mixed[~plain] - shrunk[~plain]).abs().amax((1, 2, 3)).min() > 0.05
