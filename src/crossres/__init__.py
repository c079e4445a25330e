"""crossres: recognise objects and faces in tiny images by cross-resolution distillation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossres.bench.bench import run_bench
    from crossres.config.deployment import Embed, Enroll, Export, Identify, Predict, Speed, Verify
    from crossres.config.experiment import Adapt, Cache, Distill, Faces, FacesCache, Teach
    from crossres.config.judging import Bench, Evaluate, EvaluateFaces, Match, Report, Transfer
    from crossres.config.options import Augment, Columns, Images, Model, Stages, TestImages, Train
    from crossres.core.errors import CrossresError
    from crossres.data.degradation import Degradation
    from crossres.data.readers import read
    from crossres.deploy.bulk import embed, predict
    from crossres.deploy.enrolment import enroll, identify, verify
    from crossres.deploy.export import export
    from crossres.deploy.gallery import Gallery
    from crossres.deploy.recognizer import Recognizer
    from crossres.deploy.speed import speed
    from crossres.evaluation.classification import evaluate
    from crossres.evaluation.faces import evaluate_faces
    from crossres.evaluation.matching import match
    from crossres.evaluation.transfer import transfer
    from crossres.models.encoder import Encoder, build_encoder, wrap
    from crossres.models.onnx_input import OnnxInput
    from crossres.models.pretrained import from_pretrained as load
    from crossres.report.report import write_report
    from crossres.training.adapt import adapt
    from crossres.training.cache import fill_cache
    from crossres.training.run import distill, distill_faces, teach

__version__ = "0.1.0"

# Looked up at first use: `import crossres` and `crossres --help` load none of the heavy packages.
_HOME = {
    **dict.fromkeys(("Embed", "Enroll", "Export", "Identify", "Predict", "Speed", "Verify"), "config.deployment"),
    **dict.fromkeys(("Adapt", "Cache", "Distill", "Faces", "FacesCache", "Teach"), "config.experiment"),
    **dict.fromkeys(("Bench", "Evaluate", "EvaluateFaces", "Match", "Report", "Transfer"), "config.judging"),
    **dict.fromkeys(("Augment", "Columns", "Images", "Model", "Stages", "TestImages", "Train"), "config.options"),
    "CrossresError": "core.errors",
    "Degradation": "data.degradation",
    "read": "data.readers",
    **dict.fromkeys(("embed", "predict"), "deploy.bulk"),
    **dict.fromkeys(("enroll", "identify", "verify"), "deploy.enrolment"),
    "export": "deploy.export",
    "Gallery": "deploy.gallery",
    "Recognizer": "deploy.recognizer",
    "speed": "deploy.speed",
    "evaluate": "evaluation.classification",
    "evaluate_faces": "evaluation.faces",
    "match": "evaluation.matching",
    "transfer": "evaluation.transfer",
    **dict.fromkeys(("Encoder", "build_encoder", "wrap"), "models.encoder"),
    "OnnxInput": "models.onnx_input",
    "load": "models.pretrained",
    "run_bench": "bench.bench",
    "write_report": "report.report",
    "adapt": "training.adapt",
    "fill_cache": "training.cache",
    **dict.fromkeys(("distill", "distill_faces", "teach"), "training.run"),
}

# fmt: off
__all__ = [
    "Adapt", "Augment", "Bench", "Cache", "Columns", "CrossresError", "Degradation", "Distill", "Embed", "Encoder",
    "Enroll", "Evaluate", "EvaluateFaces", "Export", "Faces", "FacesCache", "Gallery", "Identify", "Images", "Match",
    "Model", "OnnxInput", "Predict", "Recognizer", "Report", "Speed", "Stages", "Teach", "TestImages", "Train",
    "Transfer", "Verify", "adapt", "build_encoder", "distill", "distill_faces", "embed", "enroll", "evaluate",
    "evaluate_faces", "export", "fill_cache", "identify", "load", "match", "predict", "read", "run_bench", "speed",
    "teach", "transfer", "verify", "wrap", "write_report",
]
# fmt: on


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"crossres.{_HOME[name]}"), "from_pretrained" if name == "load" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
