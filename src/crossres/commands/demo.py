"""``crossres demo``."""

from crossres.bench.demo import demo
from crossres.commands.parsing import Request
from crossres.config.judging import Demo


def run(options: Demo, _: Request) -> None:
    """Train and compare; the demo prints its own progress and its report."""
    demo(options)
