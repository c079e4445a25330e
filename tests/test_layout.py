"""The layout of the package: twelve rooms, and imports that run downwards only."""

import ast
from pathlib import Path

import crossres

PACKAGE = Path(crossres.__file__).parent
#: From the top down: a room imports from itself and from the rooms below it.
ROOMS = (
    "commands",
    "report",
    "deploy",
    "bench",
    "training",
    "evaluation",
    "config",
    "models",
    "data",
    "losses",
    "core",
)


def imported(path: Path) -> set[str]:
    """Return the modules of crossres that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crossres"):
            modules = {node.module} | {f"{node.module}.{name.name}" for name in node.names}
            found |= {m for m in modules if (PACKAGE.parent / m.replace(".", "/")).with_suffix(".py").exists()}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("crossres.")}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(("crossres", *path.relative_to(PACKAGE).with_suffix("").parts))


def test_there_are_twelve_names() -> None:
    names = {p.name for p in PACKAGE.iterdir() if not p.name.startswith("__pyc")}
    assert names == {"__init__.py", "py.typed", *ROOMS}


def test_imports_run_downwards() -> None:
    upwards = [
        f"{module(path)} imports {name}"
        for path in FILES
        if (own := module(path).split(".")[1]) in ROOMS
        for name in sorted(imported(path))
        if ROOMS.index(name.split(".")[1]) < ROOMS.index(own)
    ]
    assert upwards == []


def test_no_circles() -> None:
    left = {module(path): imported(path) - {module(path)} for path in FILES}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}
