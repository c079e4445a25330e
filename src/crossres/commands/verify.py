"""``crossres verify``: needs no torch for an ONNX file."""

from crossres.commands.parsing import Request
from crossres.commands.printing import marks, note, show, show_json
from crossres.config.deployment import Verify
from crossres.deploy.enrolment import verify


def run(options: Verify, request: Request) -> None:
    """Print how alike two photos are, and whether that is enough."""
    document = verify(options, note)
    if request.json:
        show_json(document)
        return
    answer = ""
    if document["same"] is not None:
        same = "same" if document["same"] else "not the same"
        answer = f": {same} (threshold {document['threshold']:.4f})"
    show(f"similarity {document['similarity']:.4f}{answer}")
    for photo in document["photos"]:
        if photo["flags"]:
            show(f"{photo['photo']}{marks(photo['flags'])}")
