"""For mkdocs: the pages show figures of results/, which lies beside docs/ so that they show on a code host, too."""

from pathlib import Path

from mkdocs.structure.files import File

RESULTS = Path(__file__).resolve().parents[1] / "results"


def on_files(files, config):
    for figure in sorted(RESULTS.rglob("*.png")):
        name = str(Path("results") / figure.relative_to(RESULTS))
        files.append(File.generated(config, name, abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown, page, config, files):
    return markdown.replace("](../results/", "](results/")
