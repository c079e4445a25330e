"""``crossres predict``: needs no torch for an ONNX file."""

from typing import Any

from crossres.commands.parsing import Request
from crossres.commands.printing import marks, note, show, show_json
from crossres.config.deployment import Predict
from crossres.deploy.bulk import predict


def run(options: Predict, request: Request) -> None:
    """Print a line, or a JSON document, for each photo."""
    for document in predict(options, note):
        if request.json:
            show_json(document)
        else:
            show(_line(document))


def _line(document: dict[str, Any]) -> str:
    photo = document["photo"]
    if document["error"]:
        return f"{photo}: not read: {document['error'].removeprefix(photo + ': ')}"
    classes = ", ".join(f"{one['label']} {100 * one['probability']:.1f} %" for one in document["top"])
    return f"{photo}: {classes}{marks(document['flags'])}"
