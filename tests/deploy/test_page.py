"""The page: its answers alone; the served API: right, serving on after hostile uploads, 200 requests at once."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crossres.deploy.answers import LEAST, at_side, load, read_upload
from crossres.deploy.samples import samples
from crossres.deploy.torch_engine import deploy
from PIL import Image

import crossres
from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.deploy.gallery import Gallery, model_of
from crossres.deploy.recognizer import Recognizer
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import from_pretrained, save_pretrained

RNG = np.random.default_rng(0)
served_only = pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs gradio (crossres[page])")


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it has many pixels; what it holds are zeros, a thousand to one packed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    content = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


#: what marks a file in a request to gradio
FILE = {"_type": "gradio.FileData"}
#: uploads that are refused, and a part of the sentence
HOSTILE = {
    "bomb.png": (bomb(40_000, 40_000), "more than 50 million"),
    "large.png": (bomb(10_000, 10_000), "10000x10000 pixels are more than 50 million"),
    "moving.gif": (animated(), "holds 2 frames"),
    "cut.jpg": (encoded(noise(64, 64), "JPEG")[:1500], "truncated"),
    "program.png": (b"MZ\x90\0 not an image", "not an image"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "empty.png": (b"", "not an image"),
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of faces at 8x8, untrained."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=(), input_size=8)
    folder = tmp_path_factory.mktemp("faces")
    save_pretrained(encoder.eval(), folder, info={"task": "faces", "lr_size": 8, "hr_size": 16})
    return folder


def enrolled(faces: Path, people: dict[str, np.ndarray], path: Path) -> str:
    """A gallery of one photo each, at 1 % false positives for pairs and strangers."""
    recognizer = Recognizer.load(faces)
    gallery = Gallery(recognizer.facts.embedding_dim, model=model_of(recognizer))
    for name, photo in people.items():
        gallery.add(name, recognizer.embed(photo))
    gallery.calibrate(recognizer.embed([noise(16, 16) for _ in range(8)]), 0, model_of(recognizer))
    gallery.calibrate_pairs([0.2, 0.9, 1.0, 1.0], np.array([False, False, True, True]), 0, model_of(recognizer))
    gallery.save(path)
    return str(path)


def test_the_largest_side_takes_the_photo_as_it_is(student: Path, onnx_file: Path) -> None:
    """So the page says what predict says; below it the shrunken photo is asked about."""
    for model in (student, onnx_file):
        answers = load(str(model))
        for shape in ((16, 16), (8, 8), (200, 150), (13, 9)):
            photo = noise(*shape)
            largest = answers.largest(photo)
            assert largest == min(*shape, 16)
            look = answers.look(photo, largest)
            wanted = Recognizer.load(model).predict(photo)[0]
            np.testing.assert_array_equal(look.student.probabilities, wanted.probabilities)
            assert look.small.shape == (largest, largest, 3)
        small = answers.look(photo, LEAST)
        assert small.student.flags[0] == "too small: 4x4 pixels, trained from 8x8"
        wanted = Recognizer.load(model).predict(at_side(photo, LEAST, answers.facts))[0]
        np.testing.assert_array_equal(small.student.probabilities, wanted.probabilities)
        for side in (LEAST - 1, largest + 1):
            with pytest.raises(CrossresError, match="are not within 4 to"):
                answers.look(photo, side)


def test_what_the_student_reads_is_shown(student: Path) -> None:
    answers, network = load(str(student)), deploy(from_pretrained(student))
    photo = noise(40, 31)
    for side in (16, 8, 5):
        look = answers.look(photo, side)
        given = photo if side == 16 else look.small
        found = network.read(torch.from_numpy(given.copy())[None])[0].permute(1, 2, 0).numpy() * 255
        assert look.read.shape == (8, 8, 3)
        # Pillow rounds between its two passes, too
        assert np.abs(found - look.read).max() <= 2


def test_the_teacher_answers_beside_the_student(student: Path, drawn_teacher: Path) -> None:
    answers, teacher = load(str(student), teacher=str(drawn_teacher)), Recognizer.load(drawn_teacher)
    photo = noise(16, 16)
    look = answers.look(photo, 5)
    np.testing.assert_array_equal(look.teacher.probabilities, teacher.predict(photo)[0].probabilities)
    np.testing.assert_array_equal(look.small_teacher.probabilities, teacher.predict(look.small)[0].probabilities)
    assert load(str(student)).teacher is None


def test_a_runs_own_teacher_and_test_images_are_found(
    student: Path, drawn: Path, drawn_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(student, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    own, gone = (config.replace("\nteacher: null", f"\nteacher: {path}") for path in (drawn_teacher, "gone"))
    (run / "config.yaml").write_text(own)
    assert load(str(run)).teacher.source == str(drawn_teacher)
    into = tmp_path / "samples"
    into.mkdir()
    found = samples(str(run), None, into)
    assert [path.name for path in found[0]] == ["bar-1.png", "bar-2.png"]
    assert [len(paths) for paths in found] == [2, 2, 2, 2]
    stored = np.asarray(Image.open(drawn / "test" / "disc" / "00.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(into / "disc-1.png")), stored)
    # neither is there any more
    (run / "config.yaml").write_text(gone.replace(str(drawn), "/gone"))
    assert load(str(run)).teacher is None
    assert samples(str(run), None, into) == []
    assert "no samples: " in capsys.readouterr().err
    assert [len(paths) for paths in samples("model.onnx", str(drawn / "test"), into)] == [2, 2, 2, 2]
    assert len(samples("model.onnx", str(drawn / "test" / "disc"), into)[0]) == 10
    with pytest.raises(CrossresError, match="no image in it"):
        samples("model.onnx", str(into / "none"), into)


def test_two_photos_and_a_search(faces: Path, tmp_path: Path) -> None:
    ann, bob, other = noise(16, 16), noise(30, 20), noise(16, 16)
    gallery = enrolled(faces, {"Ann": ann, "Bob": bob}, tmp_path / "people.gallery")
    answers = load(str(faces), gallery=gallery)
    assert answers.compares
    recognizer = Recognizer.load(faces)
    one, two = recognizer.embed([ann, other]).astype(np.float64)
    similarity, (first, _) = answers.compare(ann, other)
    assert similarity == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert first.flags == ()
    assert answers.pairs.passed(answers.compare(ann, ann)[0]) is True
    assert answers.pairs.passed(0.5) is False
    matches, _ = answers.search(ann, 5)
    assert [match.name for match in matches] == ["Ann", "Bob"]
    assert answers.strangers.passed(matches[0].similarity) is True
    assert load(str(faces), threshold=0.3, gallery=gallery).pairs.similarity == 0.3
    bare = load(str(faces))
    assert bare.pairs.passed(1.0) is None
    assert "No threshold is set" in bare.pairs.note
    with pytest.raises(CrossresError, match="no gallery"):
        bare.search(ann, 1)
    with pytest.raises(CrossresError, match="leave --teacher out"):
        load(str(faces), teacher=str(faces))


def test_a_threshold_of_another_model_does_not_count(faces: Path, student: Path, tmp_path: Path) -> None:
    gallery = enrolled(faces, {"Ann": noise(16, 16)}, tmp_path / "people.gallery")
    with pytest.raises(CrossresError, match="gallery was made by"):
        load(str(student), gallery=gallery)
    answers = load(str(student), gallery=gallery, same_space=True)
    assert answers.pairs.similarity is answers.strangers.similarity is None
    assert "No threshold is set" in answers.strangers.note


def test_uploads_are_refused_by_their_name_alone(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(encoded(noise(1, 1)))
    (tmp_path / "cut.jpg").write_bytes(HOSTILE["cut.jpg"][0])
    with pytest.raises(CrossresError, match=r"^dot.png: 1x1 pixels show nothing; give at least 4x4$"):
        read_upload(tmp_path / "dot.png")
    with pytest.raises(CrossresError, match=r"^cut.jpg: image file is truncated"):
        read_upload(tmp_path / "cut.jpg")


@served_only
def test_places_that_cannot_be_listened_at(onnx_file: Path, refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("page", onnx_file, "--port", port)
    assert said == f"cannot listen at 127.0.0.1, port {port}: Address already in use; --host and --port take others"
    assert "from 1 to 65535" in refused("page", onnx_file, "--port", "0")


class Server:
    """A page of its own process, and its API."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def send(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)
        try:
            connection.request("GET" if body is None else "POST", f"/gradio_api/{path}", body, {"Content-Type": kind})
            said = connection.getresponse()
            return said.status, said.read().decode()
        finally:
            connection.close()

    def upload(self, content: bytes, name: str) -> tuple[int, str]:
        head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        status, text = self.send(
            "upload", head.encode() + content + b"\r\n--cut--\r\n", "multipart/form-data; boundary=cut"
        )
        return status, json.loads(text)[0] if status == 200 else text

    def predict(self, photo: Any, top: Any = 1) -> tuple[str, Any]:
        """Return the event that ends a request, and what it says."""
        status, text = self.send("call/predict", json.dumps({"data": [photo, top]}).encode())
        assert status == 200, text
        _, text = self.send(f"call/predict/{json.loads(text)['event_id']}")
        event, data = text.strip().splitlines()[-2:]
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def answer(self, content: bytes, name: str, top: int = 1) -> dict[str, Any]:
        status, path = self.upload(content, name)
        assert status == 200, path
        event, (document,) = self.predict({"path": path, "meta": FILE}, top)
        assert event == "complete"
        assert isinstance(document, dict)
        return document

    def resident(self) -> int:
        """Memory in kB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.fixture(scope="module")
def server(onnx_file: Path, drawn: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["page", str(onnx_file), "--port", str(port), "--threads", "1", "--samples", str(drawn / "test")]
    environment = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "crossres.commands.main", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"http://127.0.0.1:{port}  (Ctrl-C ends it)\n"
    yield Server(process, port)
    assert process.poll() is None, "the server died"
    process.terminate()
    assert process.wait(30) == 143


@served_only
def test_one_image_has_one_answer_everywhere(
    server: Server,
    student: Path,
    onnx_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through torch, the ONNX file, the command line and the page."""
    monkeypatch.chdir(tmp_path)

    paths = []
    for number, shape in enumerate([(16, 16), (8, 8), (90, 60), (1, 1)]):
        paths.append(Path(f"{number}.png"))
        paths[-1].write_bytes(encoded(noise(*shape)))
    said = [server.answer(path.read_bytes(), path.name, 3) for path in paths]
    assert main(["predict", str(onnx_file), *map(str, paths), "--json", "--top", "3", "--threads", "1"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == printed
    for model, near in ((onnx_file, 0), (student, 1e-5)):
        recognizer = Recognizer.load(model, threads=1)
        for page, answer in zip(said, recognizer.predict(paths), strict=True):
            found = answer.top(recognizer.facts, 3)
            assert [one["label"] for one in page["top"]] == [label for label, _ in found]
            assert [one["probability"] for one in page["top"]] == pytest.approx(
                [p for _, p in found], rel=0, abs=near
            )
            assert (page["label"], page["flags"]) == (answer.label, list(answer.flags))
    assert said[-1]["flags"][0].startswith("too small: 1x1")


@served_only
def test_hostile_uploads_and_requests_leave_the_page_serving(server: Server) -> None:
    good = encoded(noise(16, 16))
    wanted = server.answer(good, "good.png")
    for name, (content, why) in HOSTILE.items():
        said = server.answer(content, name)
        assert said["label"] is None
        assert said["error"].startswith(f"{name}: ")
        assert why in said["error"]
        assert server.answer(good, "good.png") == wanted
    uploaded = server.upload(good, "good.png")[1]
    for photo, top, why in [
        (None, 1, "there is no photo"),
        ({"path": uploaded}, 9, "top is 9, not a number from 1 to 4"),
        ({"path": uploaded}, "many", "top is 'many'"),
        ({"path": __file__}, 1, "no other file of this machine"),
        ({"path": f"{uploaded}/../../../../..{__file__}"}, 1, "no other file of this machine"),
        ({"path": __file__, "meta": FILE}, 1, None),
        ({"path": "http://127.0.0.1:1/a.png", "meta": FILE}, 1, "addresses are not fetched"),
        ({"path": "https://example.com/a.png", "meta": FILE}, 1, "addresses are not fetched"),
        ({"path": uploaded}, {"path": "https://example.com/a.png", "meta": FILE}, "addresses are not fetched"),
    ]:
        event, data = server.predict(photo, top)
        assert event == "error"
        assert why is None or why in data["error"]
    assert server.upload(bytes(101 * 2**20), "big.png")[0] == 413
    assert server.answer(good, "good.png") == wanted


@served_only
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_of_200_requests_at_once_none_is_lost_and_memory_stays(server: Server, onnx_file: Path) -> None:
    photos = [encoded(noise(16, 16)) for _ in range(200)]
    names = [f"{i}.png" for i in range(len(photos))]
    wanted = [answer.label for answer in Recognizer.load(onnx_file, threads=1).predict(photos)]
    memory = []
    with ThreadPoolExecutor(len(photos)) as clients:
        for _ in range(3):
            said = list(clients.map(server.answer, photos, names))
            assert [one["photo"] for one in said] == names
            assert [one["label"] for one in said] == wanted
            memory.append(server.resident())
    assert memory[2] < 1.1 * memory[0], f"kB after each wave: {memory}"


@served_only
def test_it_listens_on_loopback_alone(server: Server) -> None:
    socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
