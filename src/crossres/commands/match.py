"""``crossres match``: call, print."""

from crossres.commands.parsing import Request
from crossres.commands.printing import show, show_json
from crossres.config.judging import Match
from crossres.evaluation.camera import BOUNDS
from crossres.evaluation.matching import match

#: AUC above which the simulated crops are not like the camera's.
TELLS_APART = 0.7


def run(options: Match, request: Request) -> None:
    """Print the estimate and how well it fits."""
    result = match(options)
    if request.json:
        show_json(result)
        return
    ranges = result["degradation"]
    values = [
        f"  {name:10} {result[name]:8.3f}   written as {ranges[name][0]:.3f} to {ranges[name][1]:.3f}"
        f"{'   (from the files)' if name == 'jpeg' and result['jpeg_from_files'] else ''}"
        for name in BOUNDS
        if any(ranges[name])  # else there is none of it
    ]
    fit = f"of {result['auc_after']:.2f} where they are matched (0.5: it cannot)"
    if result["only_shrunk"]:
        fit += "; no estimate came nearer than plain shrinking"
    if result["auc_after"] > TELLS_APART:
        fit += ": train on the crops instead"
    show(
        f"{result['crops']}: {result['images']['crops']:,} crops, read at {result['lr_size']} pixels, against "
        f"{result['images']['hr']:,} images of {result['hr']} at {result['hr_size']}",
        f"  kernel     {result['kernel']:>8}",
        *values,
        f"a classifier tells real from simulated crops with an AUC of {result['auc_before']:.2f} where they are only "
        f"shrunk, {fit}",
        f"{result['out']}: crossres distill --config {result['out']} takes it; {result['png']}: pictures",
    )
