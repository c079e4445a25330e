"""How a low-resolution image comes from a high-resolution one: the declared parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from crossres.core.errors import CrossresError

Kernel = Literal["area", "bilinear", "bicubic", "lanczos", "nearest"]
Size = int | tuple[int, int]
Range = tuple[float, float]
#: Factors of a degradation, in the order in which they are applied.
COLOURS = ("brightness", "contrast", "saturation")


@dataclass(frozen=True)
class Degradation:
    """How a low-resolution image comes from a high-resolution one, in this order.

    Args:
        preset: kind of degradation: clean = downsampling; realistic = also blur, noise, JPEG in these ranges.
        kernel: resampling kernel, antialiased (but for nearest), as Pillow defines them.
        blur: range of the Gaussian blur's sigma, in LR pixels, drawn per sample; by preset if left out.
        noise: range of the Gaussian noise's standard deviation, in 0..1 of full scale; by preset if left out.
        jpeg: range of the JPEG quality, 1..100 (no chroma subsampling); [0,0] = no JPEG; by preset if left out.
        brightness: range of the factor of all values, before all else; [1,1] if left out, as for the next two.
        contrast: range of the factor of each value's distance to the image's mean.
        saturation: range of the factor of each pixel's distance to its luminance.
        share: of the samples that all this is done to, above 0 and at most 1; the others are only shrunk.
    """

    preset: Literal["clean", "realistic"] = "clean"
    kernel: Kernel = "bicubic"
    blur: Range | None = None
    noise: Range | None = None
    jpeg: Range | None = None
    brightness: Range | None = None
    contrast: Range | None = None
    saturation: Range | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, highest in (("blur", 16.0), ("noise", 1.0), ("jpeg", 100.0), *((name, 10.0) for name in COLOURS)):
            if (given := getattr(self, name)) is not None:
                low, high = given
                if not 0 <= low <= high <= highest:
                    raise CrossresError(f"degradation.{name}: {given} is not a range within 0..{highest:g}")
                object.__setattr__(self, name, (float(low), float(high)))
        if self.jpeg and self.jpeg != (0.0, 0.0) and self.jpeg[0] < 1:
            raise CrossresError(f"degradation.jpeg: quality starts at 1, got {self.jpeg}; [0, 0] turns JPEG off")
        if not 0 < self.share <= 1:
            raise CrossresError(f"degradation.share: expected a share above 0 and at most 1, got {self.share:g}")
        if self.share < 1 and replace(self, share=1.0).resolved() == Degradation(kernel=self.kernel).resolved():
            raise CrossresError(
                f"degradation.share {self.share:g}: nothing is done to any image; add a --degradation.preset"
            )

    def resolved(self) -> Degradation:
        """Return the same degradation with every range filled in from its preset."""
        off, realistic = (0.0, 0.0), self.preset == "realistic"
        blur, noise, jpeg = ((0.1, 0.7), (0.0, 0.04), (40.0, 95.0)) if realistic else (off, off, off)
        same = (1.0, 1.0)
        return replace(
            self,
            blur=self.blur or blur,
            noise=self.noise or noise,
            jpeg=self.jpeg or jpeg,
            brightness=self.brightness or same,
            contrast=self.contrast or same,
            saturation=self.saturation or same,
        )


def check_size(size: Size, hr_size: int | None = None) -> tuple[int, int]:
    """Return the LR size as a range (low, high).

    Raises:
        CrossresError: a size below 1, an empty range, or a size above ``hr_size``.
    """
    low, high = (size, size) if isinstance(size, int) else size
    if low < 1:
        raise CrossresError(f"lr_size {low}: an image has at least 1 pixel")
    if low > high:
        raise CrossresError(f"lr_size ({low}, {high}): the range is empty; write it as [smallest, largest]")
    if hr_size is not None and high > hr_size:
        raise CrossresError(f"lr_size {high} is larger than hr_size {hr_size}; choose lr_size <= {hr_size}")
    return low, high
