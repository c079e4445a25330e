"""``crossres export``."""

from crossres.commands.parsing import Request
from crossres.commands.printing import show_json
from crossres.config.deployment import Export
from crossres.core.timing import duration, significant
from crossres.deploy.export import export


def run(options: Export, request: Request) -> None:
    """Write the file and print how it compares with the network."""
    exported = export(options)
    if request.json:
        show_json(exported)
        return
    parity, path = exported["parity"], exported["path"]
    print(
        f"{parity['images']:,} images: embeddings differ by {parity['largest_difference']:.1e} of their size, "
        f"mean cosine {parity['cosine']:.6f}"
    )
    if parity["agreement"] is not None:
        print(f"the same first answer for {parity['agreement']:.2f} %")
    if parity["accuracy"] is not None:
        print(f"accuracy {parity['accuracy']:.2f} %, before the export {parity['accuracy_before']:.2f} %")
    size, time = significant(exported["bytes"] / 1e6), duration(exported["milliseconds"])
    print(
        f"{path}: {size} MB, {time} a photo on one core\n"
        f"next: crossres predict {path} PHOTOS, or where it will run: crossres speed {path}"
    )
