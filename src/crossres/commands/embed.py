"""``crossres embed``: needs no torch for an ONNX file."""

from crossres.commands.parsing import Request
from crossres.commands.printing import note
from crossres.config.deployment import Embed
from crossres.deploy.bulk import embed


def run(options: Embed, request: Request) -> None:  # noqa: ARG001 every command is called alike
    """Write the parquet files and print how many photos they hold."""
    counts = embed(options, note)
    print(
        f"{options.out}: {counts['photos']:,} photos, {counts['flagged']} flagged, {counts['unreadable']} unreadable"
    )
