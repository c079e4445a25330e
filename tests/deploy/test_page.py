"""The served page and its API: right, serving on after hostile uploads, 200 requests at once."""

from __future__ import annotations

import http.client
import io
import json
import os
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
from PIL import Image

import crossres
from crossres.commands.main import main
from crossres.deploy.recognizer import Recognizer

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


#: what marks a file in a request to gradio
FILE = {"_type": "gradio.FileData"}
#: uploads that are refused, and a part of the sentence
HOSTILE = {
    "bomb.png": (bomb(40_000, 40_000), "more than 50 million"),
    "large.png": (bomb(10_000, 10_000), "10000x10000 pixels are more than 50 million"),
    "cut.jpg": (encoded(noise(64, 64), "JPEG")[:1500], "truncated"),
    "program.png": (b"MZ\x90\0 not an image", "not an image"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "empty.png": (b"", "not an image"),
}


@served_only
def test_places_that_cannot_be_listened_at(onnx_file: Path, refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("page", onnx_file, "--port", port)
    assert line == f"cannot listen at 127.0.0.1, port {port}: Address already in use; choose another --port or --host"
    assert "from 1 to 65535" in refused("page", onnx_file, "--port", "0")


class Server:
    """A page of its own process, and its API."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def send(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)
        try:
            connection.request("GET" if body is None else "POST", f"/gradio_api/{path}", body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, response.read().decode()
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
    documents = [server.answer(path.read_bytes(), path.name, 3) for path in paths]
    assert main(["predict", str(onnx_file), *map(str, paths), "--json", "--top", "3", "--threads", "1"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert documents == printed
    for model, near in ((onnx_file, 0), (student, 1e-5)):
        recognizer = Recognizer.load(model, threads=1)
        for page, answer in zip(documents, recognizer.predict(paths), strict=True):
            best = answer.top(recognizer.facts, 3)
            assert [one["label"] for one in page["top"]] == [label for label, _ in best]
            assert [one["probability"] for one in page["top"]] == pytest.approx([p for _, p in best], rel=0, abs=near)
            assert (page["label"], page["flags"]) == (answer.label, list(answer.flags))
    assert documents[-1]["flags"][0].startswith("too small: 1x1")


@served_only
def test_hostile_uploads_and_requests_leave_the_page_serving(server: Server) -> None:
    good = encoded(noise(16, 16))
    expected = server.answer(good, "good.png")
    for name, (content, why) in HOSTILE.items():
        document = server.answer(content, name)
        assert document["label"] is None
        assert document["error"].startswith(f"{name}: ")
        assert why in document["error"]
        assert server.answer(good, "good.png") == expected
    uploaded = server.upload(good, "good.png")[1]
    for photo, top, why in [
        (None, 1, "there is no photo"),
        ({"path": uploaded}, 9, "top is 9; give a number from 1 to 4"),
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
    assert server.answer(good, "good.png") == expected


@served_only
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_of_200_requests_at_once_none_is_lost_and_memory_stays(server: Server, onnx_file: Path) -> None:
    photos = [encoded(noise(16, 16)) for _ in range(200)]
    names = [f"{i}.png" for i in range(len(photos))]
    expected = [answer.label for answer in Recognizer.load(onnx_file, threads=1).predict(photos)]
    memory = []
    with ThreadPoolExecutor(len(photos)) as clients:
        for _ in range(3):
            documents = list(clients.map(server.answer, photos, names))
            assert [one["photo"] for one in documents] == names
            assert [one["label"] for one in documents] == expected
            memory.append(server.resident())
    assert memory[2] < 1.1 * memory[0], f"kB after each wave: {memory}"


@served_only
def test_it_listens_on_loopback_alone(server: Server) -> None:
    socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
