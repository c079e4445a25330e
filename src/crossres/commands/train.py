"""``crossres teach``, ``distill`` and ``faces distill``."""

import shlex

from crossres.commands.parsing import Request
from crossres.commands.printing import note
from crossres.config.experiment import Experiment, Teach

#: What a student has to be told of the data as its teacher was, and where runs are.
KEPT = ("images.", "runs")


def run(config: Experiment, request: Request) -> None:
    """Train what the config says; the run prints its own progress, and the last line is what to type next."""
    from crossres.training.run import train

    if train(config, resume=request.resume is not None, overwrite=request.overwrite):
        folder = str(config.folder)
        distilled = ["export", folder, "--out", f"{config.name}.onnx"]
        kept = [f"--{name}={text}" for name, text in request.words.items() if name.startswith(KEPT)]
        words = ["distill", config.data, "--teacher", folder, *kept] if isinstance(config, Teach) else distilled
        note(f"next: {shlex.join(['crossres', *words])}")
