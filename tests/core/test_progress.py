"""Progress of a run and of a grid, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from crossres.core import progress


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 120 columns is sent."""
    sent = io.StringIO()

    def console(**options: object) -> Console:
        del options["stderr"]
        return Console(file=sent, force_terminal=True, width=120, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(progress, "Console", console)
    return sent


ROW = {"epoch": 1, "losses": {"ce": 2.5, "kd": 0.25}, "train_top1": 33.33, "images_per_second": 1234.5}


def test_one_live_line_on_a_terminal(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.time, "perf_counter", partial(next, iter(range(0, 10_000, 60))))
    shown = progress.Progress()
    shown.count("decoding", 1, 2)
    shown.count("decoding", 2, 2)
    assert "decoding: 2 of 2 images" in screen.getvalue()
    for step in (25, 50):
        shown.step(ROW, 2, step, 100)
    shown.epoch(ROW | {"seconds": 60, "val_top1": 44.4}, 2)
    shown.epoch(ROW | {"epoch": 2, "seconds": 60, "val_top1": 44.4}, 2)
    # a minute for 25 of the 50 steps that are left
    assert "epoch 1/2  ce 2.500  kd 0.250  train 33.3 %  1,234 images/s  2:00 left" in screen.getvalue()
    # only the last epoch's line stays
    assert "epoch 1/2  ce 2.500  kd 0.250  train 33.3 %  val" not in screen.getvalue()
    assert "epoch 2/2  ce 2.500  kd 0.250  train 33.3 %  val 44.40 %  1,234 images/s  0:00 left" in screen.getvalue()


def test_elsewhere_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Progress()
    shown.count("decoding", 1, 2)
    shown.step(ROW, 2, 25, 100)
    assert capsys.readouterr().err == ""
    shown.epoch({"epoch": 1, "losses": {"ce": 2.5}, "images_per_second": 99.9, "seconds": 4000}, 2)
    shown.say("[bold]a line")
    assert capsys.readouterr().err == "epoch 1/2  ce 2.500  100 images/s  1:06:40 left\n[bold]a line\n"
    quiet = progress.Progress(quiet=True)
    quiet.say("a line")
    quiet.epoch(ROW | {"seconds": 1}, 1)
    assert capsys.readouterr().err == ""


def test_the_runs_that_go_on_at_one_look(
    screen: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(progress.time, "perf_counter", partial(next, clock))
    log = tmp_path / "log.txt"
    with progress.Overview(3) as overview:
        overview.begins("one", log)
        log.write_text("epoch 1/30  ce 2.5\n\nepoch 2/30  ce 2.4\n")
        overview.begins("two", log.with_name("none.txt"))
        overview.look()
        assert "epoch 2/30  ce 2.4" in screen.getvalue()
        assert "1 waiting" in screen.getvalue()
        # two of thirty epochs of the first of three runs are done
        assert re.search(r"\d left", screen.getvalue())
        assert "0 of 3 runs done" in screen.getvalue()
        line = overview.ended("one", "failed: no memory")
        assert line.startswith("1 of 3  one  failed: no memory  ")
        assert line.endswith(" left")
        assert "1 of 3 runs done, 1 failed" in screen.getvalue()
        before = len(screen.getvalue())
        overview.look()
        assert "epoch 2/30" not in screen.getvalue()[before:]


def test_elsewhere_there_is_no_live_overview(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Overview(2) as overview:
        overview.begins("one", Path("nowhere"))
        overview.say("a line")
    assert capsys.readouterr().err == "a line\n"
