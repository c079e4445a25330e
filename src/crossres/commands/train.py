"""``crossres teach``, ``distill`` and ``faces distill``."""

from crossres.commands.parsing import Request
from crossres.config.experiment import Experiment


def run(config: Experiment, request: Request) -> None:
    """Train what the config says; the run prints its own progress and its last line."""
    from crossres.training.run import train

    train(config, resume=request.resume is not None, overwrite=request.overwrite)
