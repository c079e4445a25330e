"""One live line of progress on a terminal, one line an epoch elsewhere; always on stderr."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text


class Progress:
    """Tells how far a run is: epoch, losses by name, accuracy, images/s and time left.

    Args:
        quiet: say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._live: Live | None = None
        self._started: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            self.console.print(escape(text))

    def count(self, what: str, done: int, total: int) -> None:
        """Show how much of a single pass is done."""
        self._show(f"{what}: {done} of {total} images")
        if done >= total:
            self.close()

    def step(
        self,
        *,
        epoch: int,
        epochs: int,
        step: int,
        steps: int,
        losses: dict[str, float],
        accuracy: float | None,
        speed: float,
    ) -> None:
        """Show where the training is; ``step`` and ``steps`` count over all epochs."""
        now = time.perf_counter()
        if self._started is None:
            self._started = (now, step)
        since, first = self._started
        left = (now - since) / (step - first) * (steps - step) if step > first else None
        self._show(
            f"epoch {epoch}/{epochs}  {_terms(losses)}{_share('train', accuracy, 1)}  {speed:,.0f} images/s  "
            f"{clock(left) if left is not None else '...'} left"
        )

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the line of a finished epoch where no terminal shows the live one, and the last one always."""
        if self.console.is_terminal and row["epoch"] < epochs:
            return
        self.close()
        val = next((value for name, value in row.items() if name.startswith("val_")), None)
        self.say(
            f"epoch {row['epoch']}/{epochs}  {_terms(row['losses'])}{_share('train', row.get('train_top1'), 1)}"
            f"{_share('val', val, 2)}  "
            f"{row['images_per_second']:,.0f} images/s  {clock(row['seconds'] * (epochs - row['epoch']))} left"
        )

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, text: str) -> None:
        if self.quiet or not self.console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self.console, transient=True, refresh_per_second=4)
            self._live.start()
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))


def _terms(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _share(what: str, percent: float | None, digits: int) -> str:
    return "" if percent is None else f"  {what} {percent:.{digits}f} %"


def clock(seconds: float) -> str:
    """Return a time as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Overview:
    """A grid's runs at one look: which go on, the last line of each, and the time left.

    Args:
        runs: how many there are to do.
        silent: show nothing live; the lines of `ended` are the caller's to print.
    """

    def __init__(self, runs: int, *, silent: bool = False) -> None:
        self.runs = runs
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.logs: dict[str, Path] = {}
        self.done = 0
        self.failed = 0
        self.live = None if silent or not self.console.is_terminal or not runs else Live(console=self.console)
        self.started = time.perf_counter()
        self.began = time.time()

    def __enter__(self) -> Overview:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(Text(""))
            self.live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(escape(text))

    def begins(self, name: str, log: Path) -> None:
        """A run starts and writes its lines to ``log``."""
        self.logs[name] = log
        self.look()

    def ended(self, name: str, outcome: str) -> str:
        """A run ended; return the line that says so, with the time left for the others."""
        self.logs.pop(name, None)
        self.done += 1
        self.failed += outcome.startswith("failed")
        self.look()
        return f"{self.done} of {self.runs}  {name}  {outcome}  {self._left()} left"

    def look(self) -> None:
        """Show the last line of each run that goes on."""
        if self.live is None:
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        failed = f", {self.failed} failed" if self.failed else ""
        table.add_row(f"{self.done} of {self.runs} runs done{failed}", f"{self._left()} left")
        # a cluster is given all runs at once: those that wait have written nothing yet
        lines = {name: line for name, log in list(self.logs.items()) if (line := _last_line(log, self.began))}
        for name, line in lines.items():
            table.add_row(Text(name), Text(line, no_wrap=True, overflow="ellipsis"))
        if waiting := len(self.logs) - len(lines):
            table.add_row(f"{waiting} wait", "")
        self.live.update(table, refresh=True)

    def _left(self) -> str:
        """Return the time left, counting the epochs of the runs that go on."""
        done = self.done + sum(_share_done(_last_line(log, self.began)) for log in list(self.logs.values()))
        if not done:
            return "..."
        return clock((time.perf_counter() - self.started) / done * (self.runs - done))


def _share_done(line: str) -> float:
    """Return how much of a run its last line says is done."""
    epochs = re.match(r"epoch (\d+)/(\d+)", line)
    return int(epochs[1]) / int(epochs[2]) if epochs else 0.0


def _last_line(log: Path, since: float) -> str:
    """Return the last line that was written since a time; none where the log is of an earlier call."""
    try:
        with log.open("rb") as file:
            if log.stat().st_mtime < since - 1:  # its clock may lag a little
                return ""
            file.seek(max(0, log.stat().st_size - 1000))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
