"""``crossres transfer``: call, print."""

from crossres.commands.parsing import Request
from crossres.commands.printing import show, show_json
from crossres.config.judging import Transfer
from crossres.evaluation.transfer import transfer


def run(options: Transfer, request: Request) -> None:
    """Print the judgement."""
    result = transfer(options)
    if request.json:
        show_json(result)
        return
    counts = result["images"]
    show(
        f"{result['model']} on {result['dataset']} at {result['lr_size']}: {result['classes']} classes, "
        f"{counts['train']:,} training and {counts['test']:,} test images",
        f"linear probe       {result['probe_top1']:6.2f} %  (C {result['probe_strength']:g})",
        f"nearest neighbours {result['knn_top1']:6.2f} %  (k {result['neighbours']})",
    )
