"""``crossres enroll``: needs no torch for an ONNX file."""

from crossres.commands.parsing import Request
from crossres.commands.printing import note, show, show_json
from crossres.config.deployment import Enroll
from crossres.deploy.enrolment import enroll
from crossres.deploy.thresholds import at_size


def run(options: Enroll, request: Request) -> None:
    """Change the gallery and print what it holds then."""
    document = enroll(options, note)
    if request.json:
        show_json(document)
        return
    show(
        f"{document['gallery']}: {document['identities']:,} identities, {document['embeddings']:,} embeddings, "
        f"{sum(document['added'].values()):,} new"
    )
    for threshold in document["thresholds"]:
        show(f"threshold{at_size(threshold['size'])} {threshold['similarity']:.4f}")
    if document["pair_threshold"]:
        show(f"pair threshold {document['pair_threshold']['similarity']:.4f}")
