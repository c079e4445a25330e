"""The overview of a grid on a terminal."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from crossres.core import progress


def test_the_runs_that_go_on_at_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def console(**options: object) -> Console:
        del options["stderr"]
        return Console(file=screen, force_terminal=True, width=120, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(progress, "Console", console)
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(progress.time, "perf_counter", partial(next, clock))
    log = tmp_path / "log.txt"
    with progress.Overview(3) as overview:
        overview.begins("one", log)
        log.write_text("epoch 1/30  ce 2.5\n\nepoch 2/30  ce 2.4\n")
        overview.begins("two", log.with_name("none.txt"))
        overview.look()
        assert "epoch 2/30  ce 2.4" in screen.getvalue()
        assert "1 wait" in screen.getvalue()
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
