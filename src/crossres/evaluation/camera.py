"""Estimating a camera: the degradation that makes high-resolution images look like its crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from crossres.core.types import Bools, Float64s
from crossres.data.degradation import Degradation, Kernel, Size
from crossres.data.degrade import degrade, draw
from crossres.evaluation.crop_features import crop_features

#: What is estimated, each within bounds; a blur in LR pixels, JPEG of 100 leaves nearly all.
BOUNDS = {
    "blur": (0.0, 1.6),
    "noise": (0.0, 0.12),
    "jpeg": (10.0, 100.0),
    "brightness": (0.4, 1.8),
    "contrast": (0.3, 1.8),
    "saturation": (0.1, 2.0),
}
#: JPEG quality from which on nothing but rounding is left of it.
LOSSLESS = 99.5
#: A kernel, and whether JPEG follows.
Kind = tuple[Kernel, bool]
#: The distance that is left, and the values, as shares of `BOUNDS`.
End = tuple[float, Float64s]
#: A camera that only shrinks.
NEUTRAL = {"blur": 0.0, "noise": 0.0, "jpeg": 100.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
JPEG = list(BOUNDS).index("jpeg")
LOW, HIGH = (np.array([limits[end] for limits in BOUNDS.values()]) for end in (0, 1))
#: Steps of the derivatives, as shares of the bounds.
STEP = np.array([0.02, 0.02, 0.05, 0.01, 0.02, 0.02])
#: Random cameras of the first guess, and the images that each is tried on.
CAMERAS, EACH = 150, 150
#: Images on which the kernels are compared; the best two are on all.
FEW = 400
#: Most Gauss-Newton steps of each kernel, the share of its distance that one has to win for another, how far beyond
#: the best one's distance a kernel is given up after two, and how far beyond its start it is not tried.
STEPS, WORTH, GIVEN_UP, HOPELESS = 5, 0.05, 3.0, 30.0
#: What a moment may differ by in a camera of another kind, in standard deviations of an image's: strict, tolerant.
TOLERANCES = (0.03, 0.3)
#: Smallest spread of a feature, and the standard deviations beyond which it counts no more.
FLOOR, FARTHEST = 0.01, 3.0


@dataclass(frozen=True)
class Camera:
    """A kernel and a value for each of `BOUNDS`; those that are left out change nothing."""

    kernel: Kernel
    values: Mapping[str, float] = field(default_factory=lambda: dict(NEUTRAL))
    distance: float | None = None  #: between the moments of crops and simulated crops, in standard errors, squared

    def degradation(self, spreads: Mapping[str, float] | None = None) -> Degradation:
        """Return the degradation, with ranges that reach a share of each value to both sides, named by ``spreads``.

        JPEG's is a share of the quality's distance to the nearer end, 0 or 100; that of 100 is none.
        """
        ranges: dict[str, Any] = {}
        for name, value in self.values.items():
            low, high = BOUNDS[name]
            reach = (spreads or {}).get(name, 0.0) * (min(value, 100 - value) if name == "jpeg" else value)
            ranges[name] = (min(value, max(low, value - reach)), max(value, min(high, value + reach)))
        if self.values["jpeg"] >= LOSSLESS:
            ranges["jpeg"] = (0.0, 0.0)
        return Degradation(kernel=self.kernel, **ranges)


def estimate_cameras(
    hr: Tensor, crops: Tensor, size: Size, *, sides: Tensor | None = None, jpeg: float | None = None, seed: int = 0
) -> list[Camera]:
    """Estimate how crops come from images like the high-resolution ones, by simulated moments (McFadden 1989).

    The moments are means and mean squares of `crop_features`. A kernel regression over random cameras guesses; then
    Gauss-Newton steps on the distance of the moments, in standard errors, from every kernel.

    Args:
        hr: float (N, 3, H, H) in 0..1: other images of the same kind.
        crops: float (M, 3, s, s) in 0..1; s is ``size`` or its upper end.
        size: LR size at which the crops are read, or their range.
        sides: of the crops as they were, int64 (M,), within a range of sizes; None where there is one.
        jpeg: the crops' JPEG quality where files say it; None to estimate it.
        seed: of everything random.

    Returns:
        An estimate for each of `TOLERANCES`. The strict one is best where the crops come from such a camera; where
        they come otherwise, the tolerant one is not led astray by what no such camera does.
    """
    moments = _Moments(crops, hr, size, sides, seed)
    # with JPEG and without are two families: coefficients that are exactly 0 lie far from all that are not
    starts = {each: _guess(moments, seed, jpeg=each) for each in ((True, False) if jpeg is None else (True,))}
    if jpeg is not None:
        starts[True][JPEG] = (jpeg - LOW[JPEG]) / (HIGH[JPEG] - LOW[JPEG])
    kinds = {(kernel, compressed): start for kernel in KERNELS for compressed, start in starts.items()}
    cameras = []
    for tolerance in TOLERANCES:
        few, every = (moments.weighed(tolerance, count) for count in (FEW, len(hr)))
        ends = _descend_all(few, kinds, jpeg is None)
        # the best two again, on all images
        likely = sorted(ends, key=lambda kind: ends[kind][0])[:2]
        ends = _descend_all(every, {kind: ends[kind][1] for kind in likely}, jpeg is None)
        best = min(ends, key=lambda kind: ends[kind][0])
        values = dict(zip(BOUNDS, (LOW + ends[best][1] * (HIGH - LOW)).tolist(), strict=True))
        cameras.append(Camera(best[0], values, ends[best][0]))
    return cameras


class _Moments:
    """The moments of simulated crops against those of the real ones."""

    def __init__(self, crops: Tensor, hr: Tensor, size: Size, sides: Tensor | None, seed: int) -> None:
        from sklearn.covariance import ledoit_wolf

        features = crop_features(crops)
        self.mean, self.spread = features.mean(0), features.std(0) + FLOOR
        real = self._of(features)
        self.real, self.count, self.covariance = real.mean(0), len(real), ledoit_wolf(real)[0]
        self.hr, self.size, self.sides, self.seed = hr, size, sides, seed
        self.whiten = np.eye(len(self.real))

    def weighed(self, tolerance: float, count: int) -> _Moments:
        """Return them in standard errors of ``count`` images, to which ``tolerance`` is added as one more."""
        other = copy(self)
        other.hr = self.hr[:count]
        covariance = self.covariance * (1 / self.count + 1 / len(other.hr)) + tolerance**2 * np.eye(len(self.real))
        other.whiten = np.linalg.cholesky(np.linalg.inv(covariance)).T
        return other

    def _of(self, features: Float64s) -> Float64s:
        scaled = ((features - self.mean) / self.spread).clip(-FARTHEST, FARTHEST)
        return np.concatenate([scaled, scaled**2], 1)

    def residual(self, kernel: Kernel, unit: Float64s) -> Float64s:
        """Return the real less the simulated moments in standard errors; the random draws are the same each time."""
        simulated = self.simulate(self.hr, unit, kernel, self.seed)
        residual: Float64s = self.whiten @ (self.real - self._of(crop_features(simulated)).mean(0))
        return residual

    def simulate(self, hr: Tensor, unit: Float64s, kernel: Kernel, seed: int) -> Tensor:
        """Return the crops of a camera whose values are ``unit`` (6,), as shares of `BOUNDS`."""
        values = dict(zip(BOUNDS, (LOW + unit.clip(0, 1) * (HIGH - LOW)).tolist(), strict=True))
        return simulate(hr, self.size, Camera(kernel, values).degradation(), seed, self.sides)

    def summary(self, crops: Tensor) -> Float64s:
        """Return the moments of some crops."""
        moments: Float64s = self._of(crop_features(crops)).mean(0)
        return moments


def simulate(hr: Tensor, size: Size, degradation: Degradation, seed: int, sides: Tensor | None = None) -> Tensor:
    """Degrade HR images, to sizes drawn from ``sides``, those of real crops, where they are given.

    What is enlarged is rounded to 8 bits, as crops are that a file holds: a classifier would see the difference.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = draw(len(hr), size, degradation, generator)
    if sides is not None:
        draws = draws._replace(size=sides[torch.randint(len(sides), (len(hr),), generator=generator)])
    return degrade(hr, size, degradation, draws=draws).mul_(255).round_().div_(255)


def _guess(moments: _Moments, seed: int, *, jpeg: bool) -> Float64s:
    """Return values, as shares of `BOUNDS`, by regression from the moments of random cameras with or without JPEG."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    units = rng.uniform(size=(CAMERAS, len(BOUNDS)))
    units[:, JPEG] = units[:, JPEG] * 0.98 if jpeg else 1.0
    seen = []
    for number, unit in enumerate(units):
        images = moments.hr[rng.permutation(len(moments.hr))[:EACH]]
        kernel = KERNELS[number % len(KERNELS)]
        seen.append(moments.summary(moments.simulate(images, unit, kernel, seed + number)))
    scaler = StandardScaler().fit(seen)
    regression = KernelRidge(kernel="rbf", alpha=0.01, gamma=0.001).fit(scaler.transform(seen), units)
    guess: Float64s = regression.predict(scaler.transform(moments.real[None]))[0].clip(0.01, 0.98)
    if not jpeg:
        guess[JPEG] = 1.0
    return guess


def _descend_all(moments: _Moments, starts: Mapping[Kind, Float64s], free: bool) -> dict[Kind, End]:
    """Return distance and place that each start leads to, but for hopeless ones; ``free``: JPEG is not known."""
    first = {kind: float((moments.residual(kind[0], start) ** 2).sum()) for kind, start in starts.items()}
    ends: dict[Kind, End] = {}
    # the likelier ones first, so that the others are given up early
    for kind in sorted(starts, key=lambda kind: first[kind]):
        least = min((distance for distance, _ in ends.values()), default=np.inf)
        if first[kind] <= HOPELESS * min(first.values()):
            moving = np.ones(len(BOUNDS), dtype=bool)
            moving[JPEG] = free and kind[1]
            ends[kind] = _descend(partial(moments.residual, kind[0]), starts[kind], moving, least)
    return ends


def _descend(
    residual: Callable[[Float64s], Float64s], start: Float64s, free: Bools, least: float
) -> tuple[float, Float64s]:
    """Return the least squared residual and where it is, by damped Gauss-Newton steps within 0..1."""
    unit, here = start, residual(start)
    for taken in range(STEPS):
        before = here @ here
        slopes = []
        for which in np.flatnonzero(free):
            step = STEP[which] if unit[which] + STEP[which] <= 1 else -STEP[which]
            moved = unit.copy()
            moved[which] += step
            slopes.append((residual(moved) - here) / step)
        slope = np.stack(slopes, 1)
        damping = 2.0
        while damping < 1e5:
            system = np.vstack([slope, damping * np.eye(slope.shape[1])])
            change = np.linalg.lstsq(system, np.concatenate([-here, np.zeros(slope.shape[1])]), rcond=None)[0]
            tried = unit.copy()
            tried[free] = (unit[free] + change.clip(-0.3, 0.3)).clip(0, 1)
            there = residual(tried)
            if there @ there < here @ here:
                unit, here = tried, there
                break
            damping *= 10
        distance = here @ here
        if distance > (1 - WORTH) * before or (taken > 0 and distance > GIVEN_UP * least):
            break
    return float(here @ here), unit
