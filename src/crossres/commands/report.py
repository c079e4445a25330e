"""``crossres report``."""

from crossres.commands.parsing import Request
from crossres.config.judging import Report


def run(options: Report, request: Request) -> None:  # noqa: ARG001 every command is called alike
    """Write the page and print its size."""
    from crossres.report.report import write_report

    size = write_report(options)
    print(f"{options.out} ({size / 1e6:.1f} MB)")
