"""``crossres adapt``: call, print."""

from crossres.commands.parsing import Request
from crossres.commands.printing import show, show_json
from crossres.config.experiment import Adapt


def run(options: Adapt, request: Request) -> None:
    """Train again; print what changed."""
    from crossres.training.adapt import adapt

    result = adapt(options)
    if not result:  # another process of the run prints it
        return
    if request.json:
        show_json(result)
        return
    rows = {"test images as trained": result["test"], "labelled crops": result["labelled"]}
    lines = [f"  {name:23}  {row[0]:.2f} % before, {row[1]:.2f} % after" for name, row in rows.items() if row]
    head = f"{result['run']}, trained again with {result['crops']:,} crops"
    show(head, *lines, f"the adapted student: {result['adapted']}")
