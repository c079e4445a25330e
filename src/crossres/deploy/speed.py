"""``crossres speed``: how long a model takes an image on this machine; an ONNX file needs no torch."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from crossres.config.deployment import Speed
from crossres.core.cores import usable_cores
from crossres.core.errors import CrossresError
from crossres.core.timing import timed
from crossres.evaluation.onnx_engine import Engine, OnnxEngine
from crossres.models.zoo import model_file


def speed(options: Speed) -> dict[str, Any]:
    """Measure how long a model takes decoded images of its own size, one at a time and in batches.

    Returns:
        model, side (of the images, in pixels), parameters, multiply_adds (of one image), bytes (of the file),
        batch_size, runtime, system, cores; and timings: for one thread and for all cores (threads 0) of_one and
        of_batch, milliseconds an image as `crossres.core.timing.Timing`. What a file does not say is None.

    Raises:
        CrossresError: no such model, a file that ``crossres export`` did not write, or a batch size below 1.
    """
    if options.batch_size < 1:
        raise CrossresError(f"--batch_size: expected 1 or more, got {options.batch_size}")
    name, options = options.model, replace(options, model=str(model_file(options.model)))
    document: dict[str, Any] = {}
    timings = []
    for all_cores, threads in ((False, 1), (True, len(usable_cores()))):
        with _engine(options, threads) as engine:
            document = document or _facts(options, engine)
            timings.append({"threads": 0 if all_cores else 1, **_timings(engine, options.batch_size)})
    return {**document, "model": name, "timings": timings}


@contextmanager
def _engine(options: Speed, threads: int) -> Iterator[Engine]:
    """Open a model to run on so many threads."""
    if _is_onnx(options.model):
        yield OnnxEngine(options.model, threads)
        return
    import torch

    from crossres.deploy.deployed import TorchEngine

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield TorchEngine(options.model, trust_code=options.trust_code)
    finally:
        torch.set_num_threads(before)


def _is_onnx(model: str) -> bool:
    return Path(model).suffix.lower() == ".onnx" or Path(model).is_file()


def _timings(engine: Engine, batch_size: int) -> dict[str, Any]:
    """Return of_one and of_batch; one after the other, as a camera's images come one after another."""
    side, rng = engine.facts.side, np.random.default_rng(0)
    timings = {}
    for name, count in (("of_one", 1), ("of_batch", batch_size)):
        photos = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        timings[name] = asdict(timed({name: (partial(engine.run, photos), count)})[name])
    return timings


def _facts(options: Speed, engine: Engine) -> dict[str, Any]:
    """Return what is known of a model beside its time."""
    onnx, path = _is_onnx(options.model), Path(options.model)
    costs = engine.facts.about
    if not onnx:
        from crossres.deploy.deployed import TorchEngine, costs_of

        assert isinstance(engine, TorchEngine)
        costs = costs_of(engine.network)
    files = [path, path / "model.safetensors", path / "model" / "model.safetensors"]
    runtime = "onnxruntime" if onnx else "torch"
    return {
        "model": options.model,
        "side": engine.facts.side,
        **{name: _count(costs.get(name)) for name in ("parameters", "multiply_adds")},
        "bytes": next((file.stat().st_size for file in files if file.is_file()), None),
        "batch_size": options.batch_size,
        "runtime": f"{runtime} {version(runtime)}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(usable_cores()),
    }


def _count(value: Any) -> int | None:
    """Return a number that a file, which may be anybody's, says; None for anything else."""
    return value if type(value) is int and value > 0 else None
