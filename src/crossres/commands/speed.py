"""``crossres speed``: needs no torch for an ONNX file."""

from collections.abc import Iterator
from typing import Any

from crossres.commands.parsing import Request
from crossres.commands.printing import show, show_json
from crossres.config.deployment import Speed
from crossres.core.timing import duration, significant
from crossres.deploy.speed import speed


def run(options: Speed, request: Request) -> None:
    """Measure, and print a line for one thread and for all cores."""
    document = speed(options)
    if request.json:
        show_json(document)
    else:
        show(*_lines(document))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    adds, size = document["multiply_adds"], document["bytes"]
    unknown = "multiply-adds not recorded (export it again)"
    costs = [
        "reads {0}x{0} pixels".format(document["side"]),
        f"{document['parameters']:,} parameters" if document["parameters"] else "",
        f"{significant(adds / 1e6)} million multiply-adds" if adds else unknown,
        f"{significant(size / 1e6)} MB" if size else "",
    ]
    yield f"{document['model']}: {', '.join(filter(None, costs))}"
    yield "{runtime}, {system}, {cores} cores; images of that size, decoded before".format(**document)
    yield ""
    yield f"{'':12}{'one image':32}batches of {document['batch_size']}"
    for row in document["timings"]:
        one, batch = row["of_one"], row["of_batch"]
        alone = f"{duration(one['median'])} ({duration(one['low'])} to {duration(one['high'])})"
        # the shortest times are the most images a second
        rate, least, most = (significant(1000 / batch[name]) for name in ("median", "high", "low"))
        threads = "1 thread" if row["threads"] == 1 else "all cores"
        yield f"{threads:12}{alone:32}{rate} images/s ({least} to {most})"
    repeats = min(row[name]["repeats"] for row in document["timings"] for name in ("of_one", "of_batch"))
    yield f"medians of at least {repeats} repetitions; in brackets their middle half"
