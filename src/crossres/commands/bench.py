"""``crossres bench``."""

from crossres.bench.bench import run_bench
from crossres.bench.grid import read_grid
from crossres.commands.parsing import Request
from crossres.config.judging import Bench
from crossres.core.errors import CrossresError


def run(options: Bench, _: Request) -> None:
    """Do the runs, print the comparison; exit with 2 where a run failed."""
    documents = run_bench(options)
    folder = read_grid(options.grid, trust_code=options.trust_code).folder
    failed = [document["name"] for document in documents if "error" in document]
    if len(failed) < len(documents):
        print((folder / "comparison.md").read_text())
        lines = (folder / "comparison.txt").read_text().splitlines()[1:]  # the first says what the columns are
        print("\n".join([*lines, f"tables and figures: {folder}"]))
    if failed:
        raise CrossresError(f"{len(failed)} of {len(documents)} runs failed, first {failed[0]}; see {folder}")
