"""``crossres report``: parse, call, print."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from crossres import __version__
from crossres.commands.parser import CommandParser
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.report.content import Sources, read_runs
from crossres.report.page import Page, write_page
from crossres.report.sections import side_by_side, tell

#: Errors shown on a page, all runs together: some 10 kB each.
PICTURES = 150


def report_command(words: list[str]) -> None:
    """``crossres report``."""
    parser = CommandParser(
        prog="crossres report",
        description="Finished runs as one self-contained HTML page: curves, results, errors, embeddings, speed.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; several are set side by side")
    parser.add_argument("--data", help="the images to judge them on; what each run was trained with if left out")
    parser.add_argument("--out", default="report.html", help="the page")
    parser.add_argument("--teacher", help="a saved model to compare with; each run's own teacher if left out")
    parser.add_argument("--gallery", help="of faces: another model for the HR side, such as the teacher")
    parser.add_argument("--images", type=int, default=12, help="worst errors shown of a run; fewer of many runs")
    parser.add_argument("--trust_code", action="store_true", help="import the code that a model names")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs")
    chosen = parser.parse_args(words)
    out = Path(chosen.out)
    if chosen.images < 0:
        raise CrossresError("--images: 0 or more")
    if out.is_dir():
        raise CrossresError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}")
    runs = read_runs(chosen.runs, data=chosen.data, device=chosen.device, trust_code=chosen.trust_code)
    if chosen.gallery and all(run.document["compared_by"] != "accuracy" for run in runs):
        raise CrossresError("--gallery is for face encoders, and none of the runs is one; leave it out")
    progress = Progress()
    sources = Sources(chosen.teacher, chosen.gallery, chosen.trust_code, progress)
    told = []
    for number, run in enumerate(runs, 1):
        progress.say(f"run {number} of {len(runs)}: {run.name}")
        told.append(tell(run, sources, min(chosen.images, max(3, PICTURES // len(runs)))))
        judged = told[-1].judged
        progress.say(f"  {judged.measure} {judged.score.text} ({judged.score.small})")
        for note in run.notes:
            progress.say(f"  {note}")
    images = dict.fromkeys(f"{len(one.judged.images):,} test images of {one.judged.images.name}" for one in told)
    about = f"crossres {__version__}, {datetime.now():%d %B %Y, %H:%M}; judged on {', '.join(images)}"
    title = f"{runs[0].name if len(runs) == 1 else f'{len(runs)} runs'} · crossres report"
    together = side_by_side(told) if len(told) > 1 else []
    size = write_page(Page(title, about, together, [one.section for one in told]), out)
    print(f"{out} ({size / 1e6:.1f} MB)")
