"""One live line of progress on a terminal, one line an epoch elsewhere; always on stderr."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
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
        accuracy: float,
        speed: float,
    ) -> None:
        """Show where the training is; ``step`` and ``steps`` count over all epochs."""
        now = time.perf_counter()
        if self._started is None:
            self._started = (now, step)
        since, first = self._started
        left = (now - since) / (step - first) * (steps - step) if step > first else None
        self._show(
            f"epoch {epoch}/{epochs}  {_terms(losses)}  train {accuracy:.1f} %  {speed:,.0f} images/s  "
            f"{clock(left) if left is not None else '...'} left"
        )

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the line of a finished epoch where no terminal shows the live one, and the last one always."""
        if self.console.is_terminal and row["epoch"] < epochs:
            return
        self.close()
        val = f"  val {row['val_top1']:.2f} %" if "val_top1" in row else ""
        self.say(
            f"epoch {row['epoch']}/{epochs}  {_terms(row['losses'])}  train {row['train_top1']:.1f} %{val}  "
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


def clock(seconds: float) -> str:
    """Return a time as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
