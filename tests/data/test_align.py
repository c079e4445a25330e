"""Alignment with a stand-in for YuNet that finds red squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from crossres.core.errors import CrossresError
from crossres.data.align import SIDE, TEMPLATE, Aligner, similarity


def test_a_similarity_is_found_again_and_noise_is_fitted_in_least_squares() -> None:
    a, b = similarity(TEMPLATE, (0.3 - 1.2j) * TEMPLATE + 5j - 2)
    assert (a, b) == (pytest.approx(0.3 - 1.2j), pytest.approx(5j - 2))
    rng = np.random.default_rng(0)
    noisy = TEMPLATE + rng.normal(size=5) + 1j * rng.normal(size=5)
    a, b = similarity(TEMPLATE, noisy)
    rows = [[z.real, -z.imag, 1, 0] for z in TEMPLATE] + [[z.imag, z.real, 0, 1] for z in TEMPLATE]
    expected = np.linalg.lstsq(np.array(rows), np.append(noisy.real, noisy.imag), rcond=None)[0]
    assert [a.real, a.imag, b.real, b.imag] == pytest.approx(expected.tolist())


def photo_of(points: np.ndarray, width: int, height: int, cell: int = 8) -> np.ndarray:
    """A photo, uint8 (height, width, 3), with a red cell in its corner and green dots at five points."""
    y, x = np.mgrid[:height, :width]
    photo = np.full((height, width, 3), 60.0)
    spread = np.abs(points[0] - points[1]) / 12
    for point in points:
        photo[:, :, 1] += 190 * np.exp(-(np.abs(x + 1j * y - point) ** 2) / (2 * spread**2))
    photo[:cell, :cell] = (255, 0, 0)
    return photo.clip(0, 255).astype(np.uint8)


def dots(picture: np.ndarray, near: np.ndarray, within: float) -> np.ndarray:
    """Return the middle of the green around each of some points."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    green = picture[:, :, 1].astype(float) - 60
    masks = [green * (np.abs(x + 1j * y - point) < within) for point in near]
    return np.array([(mask * (x + 1j * y)).sum() / mask.sum() for mask in masks])


@pytest.mark.parametrize(
    ("size", "width", "height", "angle"), [(250, 480, 400, 0.4), (40, 96, 80, -0.2), (600, 1280, 960, 0.1)]
)
def test_a_face_lies_as_in_the_template(
    size: int, width: int, height: int, angle: float, yunet: Callable[[np.ndarray], Path]
) -> None:
    middle = complex(width, height) / 2
    points = size / SIDE * np.exp(1j * angle) * (TEMPLATE - (SIDE - 1) * (0.5 + 0.5j)) + middle
    shown = max(1, width // 640)  # the detector sees a large photo smaller
    aligner = Aligner(yunet((points + 0.5 + 0.5j) / shown - 0.5 - 0.5j))
    photo = photo_of(points, width, height, 8 * shown)
    assert aligner.points(photo) == pytest.approx(points, abs=0.1)
    face = aligner(photo)
    assert face is not None
    side = min(size, SIDE)  # nothing is enlarged
    assert face.shape == (side, side, 3)
    expected = (TEMPLATE + 0.5 + 0.5j) * side / SIDE - 0.5 - 0.5j
    assert np.abs(dots(face, expected, side / 12) - expected).max() < 0.3
    assert aligner(np.full((90, 90, 3), 60, np.uint8)) is None


def test_what_is_no_detector(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the extra align is not installed")
    with pytest.raises(CrossresError, match=r"^there is no file .*none.onnx; give YuNet as an ONNX file$"):
        Aligner(tmp_path / "none.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise" * 100)
    with pytest.raises(CrossresError, match=r"^[^\n]*noise.onnx: not YuNet as an ONNX file[^\n]*$"):
        Aligner(tmp_path / "noise.onnx")
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    other = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "other", [value], [other])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "o.onnx"
    )
    with pytest.raises(CrossresError, match=r"^[^\n]*o.onnx: not YuNet as an ONNX file[^\n]*$"):
        Aligner(tmp_path / "o.onnx")
