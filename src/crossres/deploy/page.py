"""``crossres page``: a web page on this machine, to ask a model about photos by hand or through its API."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from crossres.command_parser import CommandParser
from crossres.deploy.answers import LEAST, Answers, Limit, load, read_upload, samples
from crossres.deploy.photos import MOST_BYTES, Pixels
from crossres.deploy.recognizer import Answer, Recognizer
from crossres.errors import CrossresError

#: Classes or names that are listed.
LISTED = 5
#: Seconds between two looks for old uploads, and how old they become.
SWEEP, OLD = 600, 3600
#: Browsers and API clients that gradio remembers; no answer depends on it.
SESSIONS = 100
#: Seconds between two reports on the queue to each who waits, and for which an idle connection is kept.
STATUS, KEEP = 10, 120
#: Photos in work at a time: the largest take a few hundred MB each while they are decoded.
AT_ONCE = 2
VERDICTS = {True: "The same", False: "Not the same", None: "No verdict"}


def page_command(words: list[str]) -> None:
    """``crossres page``."""
    parser = CommandParser(
        prog="crossres page",
        description="A web page on this machine that asks a model about photos: drop one, or pick a sample.",
    )
    parser.add_argument("model", help="an ONNX file of crossres export, a run's or model's folder, a Hub name")
    parser.add_argument("--teacher", help="shown beside the student; the one that the run's folder names if left out")
    parser.add_argument("--samples", help="folder of photos to begin with; test images of the run's data if left out")
    parser.add_argument("--gallery", help="file of crossres enroll, to search in; it brings its thresholds")
    parser.add_argument("--threshold", type=float, help="similarity from which on two photos show the same")
    parser.add_argument(
        "--same_space", action="store_true", help="the model shares the gallery's space, although no record says so"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets everybody in")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at")
    parser.add_argument("--threads", type=int, default=0, help="of an ONNX file; 0: as many as there are cores")
    parser.add_argument("--trust_code", action="store_true", help="import the code that the models name")
    chosen = vars(parser.parse_args(words))
    host, port, folder_of_samples = (chosen.pop(option) for option in ("host", "port", "samples"))
    if find_spec("gradio") is None:
        raise CrossresError("the page needs gradio: pip install 'crossres[page]'")
    if not 0 < port < 2**16:
        raise CrossresError(f"--port {port}: a port is a number from 1 to {2**16 - 1}")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise CrossresError(f"cannot listen at {host}, port {port}: {why}; --host and --port take others") from None
    answers = load(**chosen)
    # a stop from outside takes the uploads along, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="crossres-page-") as folder:
        first = samples(chosen["model"], folder_of_samples, Path(folder))
        serve(answers, first, Path(folder) / "uploads", host, port)


def serve(answers: Answers, first: Sequence[Sequence[Path]], uploads: Path, host: str, port: int) -> None:
    """Serve the page until the process is interrupted.

    Args:
        answers: what it says.
        first: photos to begin with, class by class.
        uploads: a new folder, for what is uploaded.
        host: address to listen at.
        port: port to listen at.
    """
    # gradio asks itself whether it is there, which no proxy can answer
    os.environ |= {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_MAX_EVENTS": "100", "no_proxy": "*"}
    import gradio

    async def refuse(*_: Any, **__: Any) -> str:
        raise gradio.Error("upload the photo itself; addresses are not fetched", print_exception=False)

    # a request to the API may name an address in the place of a file
    gradio.processing_utils.async_ssrf_protected_download = refuse
    page = build(answers, first, uploads).queue(status_update_rate=STATUS, max_size=None)
    font = [gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")]
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=SESSIONS,
        footer_links=["api"],
        css_paths=Path(__file__).with_name("page.css"),
        # fonts of the reader's own: nothing is fetched
        theme=gradio.themes.Default(primary_hue="blue", font=font, font_mono=gradio.themes.Font("monospace")),
    )
    # a busy client comes back to a connection later than uvicorn's 5 seconds, and its request would be lost
    page.server.config.timeout_keep_alive = KEEP
    print(f"http://{host}:{port}  (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def build(answers: Answers, first: Sequence[Sequence[Path]], uploads: Path) -> Any:
    """Return the page, a ``gradio.Blocks``; see `serve`."""
    import gradio as gr

    def file_of(payload: dict[str, Any]) -> Path:
        path = Path(str(payload.get("path") or "")).resolve()
        if not path.is_relative_to(uploads.resolve()):
            raise CrossresError("upload the photo itself; no other file of this machine is read")
        return path

    def shown(render: Callable[..., str], *payloads: dict[str, Any] | None) -> str:
        """Return what there is to say of uploads; whatever is wrong with one is a sentence, too."""
        given = [payload for payload in payloads if payload]
        if len(given) < len(payloads):
            return _block(_said("hint", "And a second photo." if given else "Drop a photo, or pick a sample."))
        try:
            return render(*(read_upload(file_of(payload)) for payload in given))
        except CrossresError as error:
            return _block(_said("refused", "This photo is not read.", [str(error)]))

    # gradio's own preprocessing would open an upload with every decoder that Pillow has
    how: dict[str, Any] = {"preprocess": False, "concurrency_id": "model", "concurrency_limit": AT_ONCE}
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}

    def ask(render: Callable[..., str], labels: Sequence[str], rows: Sequence[Sequence[Path]]) -> None:
        """Put up places for photos, what is said of them, and samples."""
        with gr.Row():
            with gr.Column(scale=2, min_width=280), gr.Row():
                photos = [_place(gr, label) for label in labels]
            with gr.Column(scale=3, min_width=280):
                result = gr.HTML(shown(render, *[None] * len(labels)))
        for photo in photos:
            photo.change(lambda *given: shown(render, *given), photos, result, **how, **quiet)
        _examples(gr, rows, photos)

    def objects() -> None:
        def begin(payload: dict[str, Any] | None) -> tuple[Any, str]:
            largest = []

            def render(photo: Pixels) -> str:
                largest.append(answers.largest(photo))
                return _looked(answers, photo, largest[0])

            text = shown(render, payload)
            return gr.update(maximum=largest[0], value=largest[0]) if largest else gr.skip(), text

        def slide(payload: dict[str, Any] | None, side: float | None) -> str:
            return shown(lambda photo: _looked(answers, photo, int(side or 0)), payload)

        def predict(payload: dict[str, Any] | None, top: Any) -> dict[str, Any]:
            try:
                if payload is None:
                    raise CrossresError("there is no photo; upload one")
                return answers.predict(file_of(payload), top)
            except CrossresError as error:
                raise gr.Error(escape(str(error), quote=False), print_exception=False) from None

        high = max(LEAST, answers.facts.hr_size)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = _place(gr, "Photo")
                side = gr.Slider(LEAST, high, high, step=1, buttons=[], label="Resolution: side in pixels")
            with gr.Column(scale=3, min_width=280):
                result = gr.HTML(shown(str, None))
        photo.change(begin, photo, [side, result], **how, **quiet)
        side.input(slide, [photo, side], result, **how, **quiet)
        _examples(gr, singles, [photo])
        # the API's endpoint: what crossres predict --json says of a file
        top, document = gr.Number(1, visible=False, label="top"), gr.JSON(visible=False, label="answer")
        gr.Button(visible=False).click(predict, [photo, top], document, api_name="predict", **how)

    def pairs() -> None:
        ask(partial(_compared, answers), ["First photo", "Second photo"], _pairs(first))

    def search() -> None:
        ask(partial(_searched, answers), ["Photo"], singles)

    singles = [[path] for paths in first for path in paths]
    tabs = [("Same or not", pairs) if answers.compares else ("Which class", objects)]
    tabs += [("Search", search)] if answers.gallery else []
    page = gr.Blocks(title=f"crossres: {answers.name}", analytics_enabled=False, delete_cache=(SWEEP, OLD))
    with page:
        gr.HTML(_block(f"<div><h1>{escape(answers.name)}</h1>{_note(_about(answers))}</div>"))
        for name, put_up in tabs:
            with gr.Tab(name) if len(tabs) > 1 else nullcontext():
                put_up()
    return page


def _place(gr: Any, label: str) -> Any:
    return gr.Image(label=label, sources=["upload", "clipboard"], buttons=[], height=280, elem_classes="photo")


def _examples(gr: Any, rows: Sequence[Sequence[Path]], photos: list[Any]) -> None:
    if rows:
        paths = [[str(path) for path in row] for row in rows]
        gr.Examples(paths, photos, label="Samples", examples_per_page=len(rows), cache_examples=False)


def _pairs(first: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """Return a few pairs of one class and of two, by turns."""
    same = [list(paths[:2]) for paths in first if len(paths) > 1]
    other = [[paths[0], more[0]] for paths, more in pairwise(first)]
    return [pair for both in zip(same, other, strict=False) for pair in both][:6]


def _about(answers: Answers) -> str:
    facts = answers.facts
    low, high = facts.lr_size
    size = f"{low}x{low}" if low == high else f"{low}x{low} to {high}x{high}"
    does = f"knows {len(facts.classes)} classes" if facts.classes else "compares photos"
    known = f"; {len(answers.gallery):,} identities in the gallery" if answers.gallery else ""
    return f"Reads {size} pixels, learned beside {facts.hr_size}x{facts.hr_size}; {does}{known}."


def _looked(answers: Answers, photo: Pixels, side: int) -> str:
    look, whole = answers.look(photo, side), side == answers.largest(photo)
    at, pixels = f"at {side}x{side} pixels", f"{answers.facts.side}x{answers.facts.side}"
    lists = [_top("Student", "on the photo as it is" if whole else at, look.student, answers.student)]
    if answers.teacher and look.small_teacher and not whole:
        lists.append(_top("Teacher", f"{at}, enlarged", look.small_teacher, answers.teacher))
    if answers.teacher and look.teacher:
        lists.append(_top("Teacher", "on the photo as it is", look.teacher, answers.teacher))
    pictures = [_picture(look.small, f"The photo {at}"), _picture(look.read, f"What the student reads: {pixels}")]
    return _block(_gate([("", look.student)]), _row("seen", pictures), _row("lists", lists))


def _compared(answers: Answers, first: Pixels, second: Pixels) -> str:
    similarity, both = answers.compare(first, second)
    verdict = _verdict(VERDICTS[answers.pairs.passed(similarity)], similarity, answers.pairs)
    names = ("first", "second")
    pictures = [
        _picture(answers.read(photo), f"What is read of the {name} photo")
        for photo, name in zip((first, second), names, strict=True)
    ]
    gate = _gate((f"The {name} photo is ", answer) for name, answer in zip(names, both, strict=True))
    return _block(gate, verdict, _row("seen", pictures))


def _searched(answers: Answers, photo: Pixels) -> str:
    matches, answer = answers.search(photo, LISTED)
    best = matches[0]
    found = {True: best.name, False: "Nobody in this gallery", None: "No verdict"}
    verdict = _verdict(found[answers.strangers.passed(best.similarity)], best.similarity, answers.strangers)
    rows = [(match.name, max(0.0, match.similarity), f"{match.similarity:.4f}") for match in matches]
    parts = [_picture(answers.read(photo), "What is read of the photo"), _list("Most alike", "by similarity", rows)]
    return _block(_gate([("", answer)]), verdict, _row("lists", parts))


def _gate(said: Iterable[tuple[str, Answer]]) -> str:
    reasons = [who + flag for who, answer in said for flag in answer.flags]
    if reasons:
        return _said("doubt", "This answer is not to be trusted.", reasons)
    return _said("fine", "Nothing in the pixels speaks against an answer.")


def _said(kind: str, title: str, lines: Sequence[str] = ()) -> str:
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<div class='said {kind}' role='status'><b>{escape(title)}</b>{text}</div>"


def _verdict(verdict: str, similarity: float, limit: Limit) -> str:
    than = "" if limit.similarity is None else f", threshold {limit.similarity:.4f}"
    text = f"<p class='verdict'>{escape(verdict)}</p><p>Similarity {similarity:.4f}{than}</p>{_note(limit.note)}"
    return f"<div>{text}</div>"


def _picture(pixels: Pixels, caption: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f"<figure><img src='{source}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def _top(title: str, about: str, answer: Answer, who: Recognizer) -> str:
    found = answer.top(who.facts, LISTED)
    rows = [(label, share, f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %") for label, share in found]
    return _list(title, about, rows)


def _list(title: str, about: str, rows: Iterable[tuple[str, float, str]]) -> str:
    items = "".join(
        f"<li><span>{escape(label)}</span><em>{escape(text)}</em><i style='--share: {100 * share:.1f}%'></i></li>"
        for label, share, text in rows
    )
    return f"<section><h3>{title}</h3>{_note(about)}<ol>{items}</ol></section>"


def _note(text: str) -> str:
    return f"<p class='note'>{escape(text)}</p>" if text else ""


def _row(kind: str, parts: Iterable[str]) -> str:
    return f"<div class='{kind}'>{''.join(parts)}</div>"


def _block(*parts: str) -> str:
    return f"<div class='crossres'>{''.join(parts)}</div>"
