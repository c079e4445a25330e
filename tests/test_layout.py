"""The layout of the package: eleven rooms, imports that run downwards only, short files, plain names."""

import ast
from collections.abc import Iterator
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
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crossres"):
            modules = {node.module} | {f"{node.module}.{name.name}" for name in node.names}
            places = {m: PACKAGE.parent / m.replace(".", "/") for m in modules - {"crossres"}}
            names |= {m for m, place in places.items() if place.with_suffix(".py").exists() or place.is_dir()}
            if node.module == "crossres":  # the door looks its names up in any room
                names |= {f"crossres.{name.name}" for name in node.names if name.name != "__version__"}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names if name.name.startswith("crossres.")}
    return names


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
        if name.split(".")[1] not in ROOMS or ROOMS.index(name.split(".")[1]) < ROOMS.index(own)
    ]
    assert upwards == []


def test_no_circles() -> None:
    left = {module(path): imported(path) - {module(path)} for path in FILES}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_no_file_is_long() -> None:
    lines = {module(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 350} == {}


def test_no_function_is_long() -> None:
    """Signature, docstring and body together."""
    lines = {
        f"{module(path)}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in lines.items() if count > 60} == {}


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names that a file defines or uses, each with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield name, getattr(node, "lineno", 0)


def test_a_name_says_what_it_holds() -> None:
    """No variable, argument, attribute or function is called said, told, asked, wanted or found."""
    vague = {"said", "told", "asked", "wanted", "found"}
    names = {
        f"{module(path)}:{line}: {name}"
        for path in FILES
        for name, line in identifiers(path)
        if vague & set(name.lower().split("_"))
    }
    assert sorted(names) == []
