"""For mkdocs: the pages show figures and tables of results/, which lies beside docs/ so that a code host shows them, too."""

from pathlib import Path

from mkdocs.structure.files import File

RESULTS = Path(__file__).resolve().parents[1] / "results"


def on_files(files, config):
    for path in sorted([*RESULTS.rglob("*.png"), *RESULTS.rglob("*.md")]):
        name = str(Path("results") / path.relative_to(RESULTS))
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Of a page below docs/, results/ lies one folder nearer than in the repository."""
    return markdown.replace("](../../results/", "](../results/" if page.file.src_uri.count("/") else "](results/")
