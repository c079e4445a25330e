"""The page as a person meets it: headless Chromium, real clicks, an uploaded file, the slider."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import crossres
from crossres.deploy.gallery import Gallery, identity_of
from crossres.deploy.photos import fitted
from crossres.deploy.recognizer import Recognizer
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import save_pretrained
from crossres.models.zoo import examples, names

if find_spec("gradio") is None or find_spec("playwright") is None:
    pytest.skip("a page in a browser needs gradio and playwright", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect

RNG = np.random.default_rng(0)
#: milliseconds that anything may take on a busy machine
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE)
#: a name that a page must not take for markup
WRITTEN = "<img src=x onerror=document.title='owned'> ${1+1} {{x}}"


def photo(path: Path, *shape: int) -> Path:
    Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """A function that serves a page in a process of its own and returns its address."""
    processes = []

    def start(*words: object) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "crossres.commands.main", "page", *map(str, words), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.endswith("(Ctrl-C ends it)\n")
        return line.split()[0]

    yield start
    for process in processes:
        process.terminate()
    assert [process.wait(60) for process in processes] == [143] * len(processes)


@pytest.fixture(scope="module")
def picked(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six test images of each class."""
    folder = tmp_path_factory.mktemp("picked")
    for path in drawn.glob("test/*/0[0-5].png"):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


@pytest.fixture(scope="module")
def objects(serve: Callable[..., str], onnx_file: Path, drawn_teacher: Path, picked: Path) -> str:
    return serve(onnx_file, "--teacher", drawn_teacher, "--samples", picked, "--threads", 1)


@pytest.fixture(scope="module")
def unsure(
    serve: Callable[..., str], calibrated: Callable[[float | None], Path], picked: Path
) -> tuple[str, Recognizer]:
    """A page without samples or teacher, whose model is unsure of half of what the tests show it; and the model."""
    paths = sorted(picked.iterdir())[::3]
    plain = Recognizer.load(calibrated(0.0))
    shares = [plain.predict(fitted(np.asarray(Image.open(path)), 8, plain.facts))[0].probability for path in paths]
    folder = calibrated(float(np.median(shares)))
    return serve(folder), Recognizer.load(folder)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a page; nothing outside this machine may be requested, nothing may go wrong in it."""
    contexts, requested, wrong = [], [], []

    def open_page(url: str, **how: Any) -> Page:
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requested if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert wrong == []


def listed(page: Page, number: int) -> list[str]:
    """The labels of one of the lists, the first one first."""
    return page.locator(".lists section").nth(number).locator("li span").all_inner_texts()


def of_pixels(path: Path, student: Recognizer, teacher: Recognizer) -> tuple[Any, Any, Any]:
    """The student's answer at its own size, the teacher's to the same enlarged, the teacher's to the whole photo."""
    whole = np.asarray(Image.open(path).convert("RGB"))
    small = fitted(whole, student.facts.side, student.facts)
    return student.predict(small)[0], *teacher.predict([small, whole])


def test_it_opens_where_the_enlarged_teacher_fails_and_the_student_does_not(
    objects: str, opened: Callable[..., Page], onnx_file: Path, drawn_teacher: Path, picked: Path
) -> None:
    student, teacher = Recognizer.load(onnx_file), Recognizer.load(drawn_teacher)
    shares = {}
    for path in sorted(picked.iterdir()):
        ours, enlarged, whole = of_pixels(path, student, teacher)
        if ours.label == whole.label != enlarged.label:
            shares[path] = ours.probability
    best = max(shares, key=lambda path: shares[path])
    ours, enlarged, whole = of_pixels(best, student, teacher)
    page = opened(objects)
    expect(page.locator(".answer .verdict")).to_contain_text(ours.sentence)
    line = f"The teacher answers {enlarged.label} to the same pixels, enlarged, and {whole.label} to the whole photo."
    expect(page.locator(".answer p").nth(1)).to_have_text(line)
    expect(page.get_by_text("Chosen to open the page")).to_be_visible()
    expect(page.locator("input[type=number]")).to_have_value("8")
    expect(page.locator("figure figcaption")).to_have_text("What the student reads: 8x8")
    # the photo itself is there, and what is said of it holds for the slider
    assert page.locator(".photo img").evaluate("image => image.naturalWidth") == 16
    slider = page.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    expect(page.get_by_text("The photo at 16x16 pixels")).to_be_visible()
    expect(page.locator(".answer .verdict")).to_contain_text(student.predict(best)[0].sentence)
    expect(page.get_by_text("Chosen to open the page")).to_have_count(0)
    expect(page.get_by_text("API")).to_have_count(0)
    expect(page.locator("footer")).to_have_count(0)


@pytest.mark.parametrize(("scheme", "amber"), [("light", "rgb(161, 92, 0)"), ("dark", "rgb(255, 181, 69)")])
def test_an_unsure_answer_is_amber(
    unsure: tuple[str, Recognizer], opened: Callable[..., Page], picked: Path, scheme: str, amber: str
) -> None:
    address, student = unsure
    page = opened(address, color_scheme=scheme)
    verdict = page.locator(".answer .verdict")
    for path in sorted(picked.iterdir())[::3]:
        answer = student.predict(fitted(np.asarray(Image.open(path)), 8, student.facts))[0]
        page.locator("input[type=file]").first.set_input_files(path)
        expect(verdict).to_have_text(answer.sentence)
        notes = page.locator(".answer .note").all_inner_texts()
        assert notes == [f"{flag[0].upper()}{flag[1:]}." for flag in answer.flags]
        colour = verdict.evaluate("verdict => getComputedStyle(verdict).color")
        assert (colour == amber) == bool(answer.flags) == answer.sentence.endswith(": unsure")
        page.get_by_label("Remove Image").click()
        expect(page.locator(".message")).to_have_text("Drop a photo.")


def test_a_sample_an_upload_and_the_slider(
    objects: str, opened: Callable[..., Page], onnx_file: Path, drawn_teacher: Path, drawn: Path, tmp_path: Path
) -> None:
    student, teacher = Recognizer.load(onnx_file), Recognizer.load(drawn_teacher)

    def labels(who: Recognizer, what: Any) -> list[str]:
        return [label for label, _ in who.predict(what)[0].top(who.facts, 5)]

    page = opened(objects)
    page.get_by_label("Remove Image").click()
    expect(page.locator(".message")).to_have_text("Drop a photo, or pick a sample.")
    page.locator(".gallery-item").first.click()
    expect(page.locator(".lists section")).to_have_count(3)
    first = np.asarray(Image.open(drawn / "test" / "bar" / "00.png"))
    small = fitted(first, 8, student.facts)
    assert [listed(page, i) for i in range(3)] == [
        labels(student, small),
        labels(teacher, small),
        labels(teacher, first),
    ]

    page.get_by_label("Remove Image").click()
    expect(page.locator(".message")).to_have_text("Drop a photo, or pick a sample.")
    mine = tmp_path / "mine.png"
    Image.open(drawn / "test" / "cross" / "03.png").resize((31, 40)).save(mine)
    page.locator("input[type=file]").first.set_input_files(mine)
    expect(page.locator(".lists section")).to_have_count(3)
    slider = page.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    expect(page.get_by_text("The photo at 16x16 pixels")).to_be_visible()
    assert listed(page, 0) == labels(student, mine)
    sure = student.predict(mine)[0].probability
    expect(page.locator(".lists li em").first).to_have_text(f"{100 * sure:.1f} %")

    page.keyboard.press("Home")
    expect(page.get_by_text("The photo at 4x4 pixels")).to_be_visible()
    expect(page.locator(".answer .note").first).to_have_text("Too small: 4x4 pixels, trained on 8x8 or larger.")
    small = fitted(np.asarray(Image.open(mine)), 4, student.facts)
    assert [listed(page, i) for i in range(3)] == [
        labels(student, small),
        labels(teacher, small),
        labels(teacher, mine),
    ]
    size = page.locator("figure img").first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [4, 4]

    # a drag with the mouse to the middle
    box = slider.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(page.get_by_text("The photo at 10x10 pixels")).to_be_visible()
    assert listed(page, 0) == labels(student, fitted(np.asarray(Image.open(mine)), 10, student.facts))


def test_what_cannot_be_read_is_said_and_the_next_photo_is(
    objects: str, opened: Callable[..., Page], tmp_path: Path
) -> None:
    page = opened(objects)
    jpeg = photo(tmp_path / "cut.jpg", 64, 64)
    jpeg.write_bytes(jpeg.read_bytes()[:1500])
    (tmp_path / "junk.png").write_bytes(b"MZ no image")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    good = photo(tmp_path / "good.png", 16, 16)
    for name, why in {
        "cut.jpg": "cut.jpg: image file is truncated",
        "junk.png": "junk.png: not an image",
        "large.png": "large.png: 10000x10000 pixels are more than 50 million; crop or shrink it",
        photo(tmp_path / "dot.png", 1, 1).name: "dot.png: 1x1 pixels are too few; give at least 4x4",
    }.items():
        page.get_by_label("Remove Image").click()
        page.locator("input[type=file]").first.set_input_files(tmp_path / name)
        expect(page.locator(".message")).to_contain_text("This photo cannot be read.")
        expect(page.locator(".message")).to_contain_text(why)
        expect(page.locator(".lists")).to_have_count(0)
        page.get_by_label("Remove Image").click()
        expect(page.locator(".message")).to_have_text("Drop a photo, or pick a sample.")
        page.locator("input[type=file]").first.set_input_files(good)
        expect(page.locator(".answer .verdict")).to_contain_text(" %")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_on_a_phone(objects: str, opened: Callable[..., Page], scheme: str) -> None:
    page = opened(objects, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.locator(".gallery-item").first.click()
    expect(page.get_by_text("Chosen to open the page")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = page.locator("h1, .gallery-item, .verdict, figure, section, .photo, input[type=range]").all()
    places = [box.bounding_box() for box in boxes]
    assert all(place and place["x"] >= 0 and place["x"] + place["width"] <= 390 for place in places)
    # samples above the answer, which needs no scrolling
    samples, answer = (page.locator(name).last.bounding_box() for name in (".gallery-item", ".answer .verdict"))
    assert samples
    assert answer
    assert samples["y"] + samples["height"] <= answer["y"]
    assert answer["y"] + answer["height"] <= 844


def test_two_faces_and_a_search(serve: Callable[..., str], opened: Callable[..., Page], tmp_path: Path) -> None:
    torch.manual_seed(0)
    info = {"task": "faces", "lr_size": 8, "hr_size": 16}
    save_pretrained(build_encoder("resnet8", classes=(), input_size=8).eval(), tmp_path / "faces", info=info)
    recognizer = Recognizer.load(tmp_path / "faces")
    ann, bob = photo(tmp_path / "ann.png", 16, 16), photo(tmp_path / "bob.png", 30, 20)
    gallery = Gallery(recognizer.facts.embedding_dim, model=identity_of(recognizer))
    for name, path in ((WRITTEN, ann), ("Bob", bob)):
        gallery.add(name, recognizer.embed(path))
    strangers = [photo(tmp_path / f"stranger-{i}.png", 16, 16) for i in range(5)]
    gallery.calibrate(recognizer.embed(strangers), 0, identity_of(recognizer))
    gallery.calibrate_pairs([0.9, 0.99999], np.array([False, True]), 0, identity_of(recognizer))
    gallery.save(tmp_path / "people.gallery")

    page = opened(serve(tmp_path / "faces", "--gallery", tmp_path / "people.gallery"))
    places = page.locator("input[type=file]")
    places.nth(0).set_input_files(ann)
    expect(page.locator(".message")).to_have_text("Add a second photo.")
    places.nth(1).set_input_files(bob)
    expect(page.locator(".verdict")).to_have_text("Not the same")
    similarity = float(np.dot(*(row / np.linalg.norm(row) for row in recognizer.embed([ann, bob]))))
    expect(page.get_by_text(f"Similarity {similarity:.4f}, threshold 1.0000")).to_be_visible()
    page.get_by_label("Remove Image").nth(1).click()
    expect(page.locator(".message")).to_have_text("Add a second photo.")
    places.nth(1).set_input_files(ann)
    expect(page.locator(".verdict")).to_have_text("The same")

    page.get_by_role("tab", name="Search").click()
    place = page.locator("input[type=file]").last
    place.set_input_files(ann)
    expect(page.locator(".verdict").last).to_have_text(WRITTEN)
    assert page.locator(".lists li span").all_inner_texts() == [WRITTEN, "Bob"]
    page.get_by_label("Remove Image").last.click()
    place.set_input_files(strangers[0])
    expect(page.locator(".verdict").last).to_have_text("Nobody in this gallery")
    assert "owned" not in page.title()


def test_without_a_model_the_ready_ones_answer_at_a_click(
    serve: Callable[..., str], opened: Callable[..., Page]
) -> None:
    page = opened(serve())
    for name in sorted(names(), key=lambda name: not examples(name)):
        page.get_by_role("tab", name=name, exact=True).click()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
        if not (chosen := examples(name)):
            expect(page.locator(".message:visible")).to_have_text("Drop a photo.")
            continue
        for number in (1, 2, 0):  # it opens with the first
            path = chosen[number]
            page.locator(".gallery-item:visible").nth(number).click()
            expect(page.locator(".answer:visible .verdict")).to_contain_text(f"{path.stem.replace('_', ' ')}, ")
