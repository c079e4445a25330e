"""``crossres page``: a web page on this machine, to ask a model about photos by hand or through its API."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from crossres.core.errors import CrossresError
from crossres.core.types import Pixels
from crossres.deploy.markup import about, block, classified, compared, message, note, searched
from crossres.deploy.photos import MAX_BYTES
from crossres.deploy.service import MIN_SIDE, Shown, read_upload, telling

#: Seconds between two looks for old uploads, and how old they become.
SWEEP, OLD = 600, 3600
#: Browsers and API clients that gradio remembers; no answer depends on it.
SESSIONS = 100
#: Seconds between two reports on the queue to each who waits, and for which an idle connection is kept.
STATUS, KEEP = 10, 120
#: What the browser sends for a photo, or a sample's path; None for no photo.
Upload = dict[str, Any] | Path | None
#: Photos in work at a time: the largest take a few hundred MB each while they are decoded.
AT_ONCE = 2


def serve(models: Sequence[Shown], uploads: Path, host: str, port: int) -> None:
    """Serve the page until the process is interrupted, at a host's address and port.

    ``uploads`` is a new folder, for what is uploaded.
    """
    # gradio calls its own address, which no proxy can reach
    os.environ |= {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_MAX_EVENTS": "100", "no_proxy": "*"}
    import gradio

    async def refuse(*_: Any, **__: Any) -> str:
        raise gradio.Error("upload the photo itself; addresses are not fetched", print_exception=False)

    # a request to the API may name an address in the place of a file
    gradio.processing_utils.async_ssrf_protected_download = refuse
    page = page_of(models, uploads).queue(status_update_rate=STATUS, max_size=None)
    font = [gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")]
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=SESSIONS,
        footer_links=[],
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


def page_of(models: Sequence[Shown], uploads: Path) -> Any:
    """Return the ``gradio.Blocks`` of some models, a tab each where there are several."""
    import gradio

    title = models[0].title if len(models) == 1 else "ready models"
    page = gradio.Blocks(title=f"crossres: {title}", analytics_enabled=False, delete_cache=(SWEEP, OLD))
    with page:
        for each in models:
            with gradio.Tab(each.title) if len(models) > 1 else nullcontext():
                Layout(each, uploads).put_up()
    return page


class Layout:
    """A model's parts and what happens to uploads; no files but those in ``uploads`` are read."""

    # gradio's own preprocessing would open an upload with every decoder that Pillow has
    how: ClassVar[dict[str, Any]] = {"preprocess": False, "concurrency_id": "model", "concurrency_limit": AT_ONCE}
    private: ClassVar[dict[str, str]] = {"api_visibility": "private", "show_progress": "hidden"}
    quiet: ClassVar[dict[str, Any]] = {**how, **private, "trigger_mode": "always_last"}

    def __init__(self, model: Shown, uploads: Path) -> None:
        import gradio

        self.gr, self.model, self.service, self.uploads = gradio, model, model.service, uploads

    def put_up(self) -> None:
        """Put up the model's head, and a tab for each way to ask it."""
        gr, service, first = self.gr, self.service, self.model.first
        singles = [[path] for paths in first for path in paths]
        if service.compares:
            labels = ["First photo", "Second photo"]
            tabs = [("Same or not", partial(self._ask, partial(compared, service), labels, _pairs(first)))]
        else:
            tabs = [("Which class", partial(self._classify, singles))]
        if service.gallery:
            tabs.append(("Search", partial(self._ask, partial(searched, service), ["Photo"], singles)))
        gr.HTML(block(f"<div><h1>{escape(self.model.title)}</h1>{note(about(service))}</div>"))
        for name, put_up in tabs:
            with gr.Tab(name) if len(tabs) > 1 else nullcontext():
                put_up()

    def _ask(self, render: Callable[..., str], labels: Sequence[str], rows: Sequence[Sequence[Path]]) -> None:
        """Put up places for photos, their result, and samples."""
        with self.gr.Row():
            with self.gr.Column(scale=2, min_width=280):
                with self.gr.Row():
                    photos = [self._place(label) for label in labels]
                self._examples(rows, photos)
            with self.gr.Column(scale=3, min_width=280):
                result = self.gr.HTML(self._shown(render, *[None] * len(labels)))
        for photo in photos:
            photo.change(lambda *payloads: self._shown(render, *payloads), photos, result, **self.quiet)

    def _classify(self, rows: Sequence[Sequence[Path]]) -> None:
        """Put up a place for a photo, samples, the slider of its resolution, its classes, and the API's endpoint."""
        gr, facts = self.gr, self.service.facts
        chosen = telling(self.service, [path for row in rows for path in row])
        first = chosen or next((row[0] for row in rows), None)
        remark = "chosen to open the page because the enlarged teacher answers otherwise" if chosen else ""
        sides, text = self._opened(first, remark)
        sides = {"maximum": max(MIN_SIDE, facts.hr_size), "value": max(MIN_SIDE, facts.side), **sides}
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = self._place("Photo", first)
                self._examples(rows, [photo])
                side = gr.Slider(MIN_SIDE, **sides, step=1, buttons=[], label="Resolution: side in pixels")
            with gr.Column(scale=3, min_width=280):
                result = gr.HTML(text)
        photo.change(self._begin, photo, [side, result], **self.quiet)
        side.input(self._slide, [photo, side], result, **self.quiet)
        # the API's endpoint: what crossres predict --json prints for a file
        top, document = gr.Number(1, visible=False, label="top"), gr.JSON(visible=False, label="answer")
        gr.Button(visible=False).click(self._predict, [photo, top], document, api_name="predict", **self.how)

    def _opened(self, photo: Upload, remark: str = "") -> tuple[dict[str, Any], str]:
        """Return the slider's options for a new photo, if there is one, and what is shown of it at its first side."""
        sides: dict[str, Any] = {}

        def render(pixels: Pixels) -> str:
            sides.update(maximum=self.service.largest(pixels), value=self.service.opening(pixels))
            return classified(self.service, pixels, sides["value"], remark)

        text = self._shown(render, photo)
        return sides, text

    def _begin(self, payload: dict[str, Any] | None) -> tuple[Any, str]:
        sides, text = self._opened(payload)
        return self.gr.update(**sides) if sides else self.gr.skip(), text

    def _slide(self, payload: dict[str, Any] | None, side: float | None) -> str:
        return self._shown(lambda photo: classified(self.service, photo, int(side or 0)), payload)

    def _predict(self, payload: dict[str, Any] | None, top: Any) -> dict[str, Any]:
        try:
            if payload is None:
                raise CrossresError("there is no photo; upload one")
            return self.service.predict(self._file(payload), top)
        except CrossresError as error:
            raise self.gr.Error(escape(str(error), quote=False), print_exception=False) from None

    def _shown(self, render: Callable[..., str], *payloads: Upload) -> str:
        """Return what is shown of uploads or samples; whatever is wrong with one is shown, too."""
        present = [payload for payload in payloads if payload]
        if len(present) < len(payloads):
            first = "Drop a photo, or pick a sample." if self.model.first else "Drop a photo."
            return block(message("hint", "Add a second photo." if present else first))
        try:
            return render(*(read_upload(self._file(payload), self.service.facts.range) for payload in present))
        except CrossresError as error:
            return block(message("refused", "This photo cannot be read.", [str(error)]))

    def _file(self, payload: dict[str, Any] | Path) -> Path:
        if isinstance(payload, Path):  # a sample, not a request
            return payload
        path = Path(str(payload.get("path") or "")).resolve()
        if not path.is_relative_to(self.uploads.resolve()):
            raise CrossresError("upload the photo itself; no other file of this machine is read")
        return path

    def _place(self, label: str, first: Path | None = None) -> Any:
        how: dict[str, Any] = {"sources": ["upload", "clipboard"], "buttons": [], "height": 280, "min_width": 120}
        return self.gr.Image(str(first) if first else None, label=label, elem_classes="photo", **how)

    def _examples(self, rows: Sequence[Sequence[Path]], photos: list[Any]) -> None:
        if rows:
            paths = [[str(path) for path in row] for row in rows]
            self.gr.Examples(paths, photos, label="Samples", examples_per_page=len(rows), cache_examples=False)


def _pairs(first: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """Return a few pairs of one class and of two, by turns."""
    same = [list(paths[:2]) for paths in first if len(paths) > 1]
    other = [[paths[0], more[0]] for paths, more in pairwise(first)]
    return [pair for both in zip(same, other, strict=False) for pair in both][:6]
