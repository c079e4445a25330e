"""``crossres identify``: needs no torch for an ONNX file."""

from typing import Any

from crossres.commands.parsing import Request
from crossres.commands.printing import marks, note, show, show_json
from crossres.config.deployment import Identify
from crossres.deploy.enrolment import identify


def run(options: Identify, request: Request) -> None:
    """Print who is on each photo."""
    document = identify(options, note)
    if request.json:
        show_json(document)
        return
    for photo in document["photos"]:
        show(f"{photo['photo']}: {_answer(photo, bool(document['thresholds']))}")


def _answer(photo: dict[str, Any], judged: bool) -> str:
    if photo["error"]:
        return f"not read: {photo['error'].removeprefix(photo['photo'] + ': ')}"
    nearest = ", ".join(f"{match['name']} {match['similarity']:.4f}" for match in photo["nearest"])
    if photo["threshold"] is None:
        why = "not judged" if judged else "no threshold"
        return f"nearest: {nearest} ({why}){marks(photo['flags'])}"
    answer = "" if photo["name"] else "nobody, nearest "
    return f"{answer}{nearest} (threshold {photo['threshold']:.4f}){marks(photo['flags'])}"
