"""``crossres page``: a web page on this machine, to ask a model about photos by hand or through its API."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from crossres.core.errors import CrossresError
from crossres.deploy.answers import LEAST, Answers, read_upload
from crossres.deploy.markup import about, block, compared, looked, note, said, searched
from crossres.deploy.photos import MOST_BYTES, Pixels

#: Seconds between two looks for old uploads, and how old they become.
SWEEP, OLD = 600, 3600
#: Browsers and API clients that gradio remembers; no answer depends on it.
SESSIONS = 100
#: Seconds between two reports on the queue to each who waits, and for which an idle connection is kept.
STATUS, KEEP = 10, 120
#: Photos in work at a time: the largest take a few hundred MB each while they are decoded.
AT_ONCE = 2


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
            return block(said("hint", "And a second photo." if given else "Drop a photo, or pick a sample."))
        try:
            return render(*(read_upload(file_of(payload)) for payload in given))
        except CrossresError as error:
            return block(said("refused", "This photo is not read.", [str(error)]))

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
                return looked(answers, photo, largest[0])

            text = shown(render, payload)
            return gr.update(maximum=largest[0], value=largest[0]) if largest else gr.skip(), text

        def slide(payload: dict[str, Any] | None, side: float | None) -> str:
            return shown(lambda photo: looked(answers, photo, int(side or 0)), payload)

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
        ask(partial(compared, answers), ["First photo", "Second photo"], _pairs(first))

    def search() -> None:
        ask(partial(searched, answers), ["Photo"], singles)

    singles = [[path] for paths in first for path in paths]
    tabs = [("Same or not", pairs) if answers.compares else ("Which class", objects)]
    tabs += [("Search", search)] if answers.gallery else []
    page = gr.Blocks(title=f"crossres: {answers.name}", analytics_enabled=False, delete_cache=(SWEEP, OLD))
    with page:
        gr.HTML(block(f"<div><h1>{escape(answers.name)}</h1>{note(about(answers))}</div>"))
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
