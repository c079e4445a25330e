"""One live line of progress on a terminal, one line an epoch elsewhere; always on stderr."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from crossres.core.errors import visible


class Progress:
    """Tells how far a run is, unless ``quiet``: epoch, losses by name, accuracy, images/s and time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._live = Live(console=self.console, transient=True)
        self._started: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            self.console.print(escape(visible(text)))

    def count(self, what: str, done: int, total: int) -> None:
        """Show how much of a single pass is done."""
        self._show(_cut(f"{what}: {done} of {total} images"))
        if done >= total:
            self.close()

    def step(self, row: dict[str, Any], epochs: int, step: int, steps: int) -> None:
        """Show where the training is: a row as of `epoch` so far; ``step`` and ``steps`` count over all epochs."""
        now = time.perf_counter()
        if self._started is None:
            self._started = (now, step)
        since, first = self._started
        left = (now - since) / (step - first) * (steps - step) if step > first else None
        self._show(_cut(_epoch_line(row, epochs, left)))

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the line of a finished epoch where no terminal shows the live one, and the last one always."""
        if self.console.is_terminal and row["epoch"] < epochs:
            return
        self.close()
        self.say(_epoch_line(row, epochs, row["seconds"] * (epochs - row["epoch"])))

    def close(self) -> None:
        """Take away what is live."""
        self._live.stop()

    def _show(self, what: RenderableType, now: bool = False) -> None:
        if not self.quiet and self.console.is_terminal:
            self._live.start()
            self._live.update(what, refresh=now)


def _cut(line: str) -> Text:
    return Text(line, no_wrap=True, overflow="ellipsis")


def _epoch_line(row: dict[str, Any], epochs: int, left: float | None) -> str:
    val = next((value for name, value in row.items() if name.startswith("val_")), None)
    parts = [f"epoch {row['epoch']}/{epochs}", *(f"{name} {value:.3f}" for name, value in row["losses"].items())]
    if "train_top1" in row:
        parts.append(f"train {row['train_top1']:.1f} %")
    if val is not None:
        parts.append(f"val {val:.2f} %")
    return "  ".join([*parts, f"{row['images_per_second']:,.0f} images/s", f"{clock(left)} left"])


def clock(seconds: float | None) -> str:
    """Return a time as h:mm:ss, or m:ss below an hour; ``...`` where it is not known."""
    if seconds is None:
        return "..."
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Overview(Progress):
    """A grid's runs at one look: how many are done, the last line of each that goes on, and the time left.

    With ``quiet`` nothing is shown or printed; the lines of `ended` are the caller's to print.
    """

    def __init__(self, runs: int, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.runs = runs
        self.logs: dict[str, Path] = {}
        self.done = self.failed = 0
        self.started, self.began = time.perf_counter(), time.time()

    def __enter__(self) -> Overview:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.quiet = True  # a run that begins after Ctrl-C

    def begins(self, name: str, log: Path) -> None:
        """A run starts and writes its lines to ``log``."""
        self.logs[name] = log
        self.look()

    def ended(self, name: str, outcome: str) -> str:
        """A run ended; return the line that says so, with the time left for the others."""
        self.logs.pop(name, None)
        self.done += 1
        self.failed += outcome.startswith("failed")
        return f"{self.done} of {self.runs}  {name}  {outcome}  {self.look()} left"

    def look(self) -> str:
        """Show the last line of each run that goes on; return the time left, counting the epochs of these."""
        lines = {name: _last_line(log, self.began) for name, log in list(self.logs.items())}
        epochs = [match for line in lines.values() if (match := re.match(r"epoch (\d+)/(\d+)", line))]
        done = self.done + sum(int(epoch[1]) / int(epoch[2]) for epoch in epochs)
        left = clock((time.perf_counter() - self.started) / done * (self.runs - done) if done else None)
        table = Table(box=None, show_header=False, pad_edge=False)
        failed = f", {self.failed} failed" if self.failed else ""
        table.add_row(f"{self.done} of {self.runs} runs done{failed}", f"{left} left")
        for name, line in lines.items():
            if line:
                table.add_row(Text(name), _cut(line))
        # a cluster is given all runs at once: those that wait have written nothing yet
        if waiting := list(lines.values()).count(""):
            table.add_row(f"{waiting} waiting", "")
        self._show(table, now=True)
        return left


def _last_line(log: Path, since: float) -> str:
    """Return the last line that was written since a time; none where the log is of an earlier call."""
    with suppress(OSError):
        if log.stat().st_mtime >= since - 1:  # its clock may lag a little
            return log.read_text(errors="replace").strip().rpartition("\n")[2]
    return ""
