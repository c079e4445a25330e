"""YAML files of options: what PyYAML reads, without what only a mistake or an attack writes."""

from pathlib import Path
from typing import Any

import yaml

from crossres.core.errors import CrossresError, demand_file, one_line

#: Bytes of the largest file, levels of nesting, and values once every alias is written out.
MAX_BYTES, MAX_DEPTH, MAX_VALUES = 4 * 2**20, 30, 100_000


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of options.

    Raises:
        CrossresError: no such file, not YAML, not options, a key that stands twice, or more than a person writes.
    """
    demand_file(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise CrossresError(f"larger than {MAX_BYTES // 2**20} MB; options are a few lines")
        tree = parse_yaml(content.decode())
    except FileNotFoundError:
        raise CrossresError(f"no such file: {path}") from None
    except CrossresError as error:
        raise CrossresError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CrossresError(f"cannot read {path}: {error}") from None
    if not isinstance(tree or {}, dict):
        raise CrossresError(f"{path}: holds no options; write them as 'key: value'")
    return tree or {}


def parse_yaml(text: str) -> Any:
    """Return the values of YAML; CrossresError where `load_yaml` raises one for its text."""
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _count(node, {}, [])
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise CrossresError(f"nested in more than {MAX_DEPTH} levels") from None
    except CrossresError:
        raise
    except Exception as error:  # of a number of thousands of digits, or a tag that does not fit its value
        raise CrossresError(f"not YAML: {one_line(error)}") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, int], around: list[int]) -> int:
    """Return how many values a node holds, each alias counted where it stands; refuse too many, deep or endless."""
    if id(node) in around:
        raise CrossresError(f"line {node.start_mark.line + 1}: an alias of what it stands in has no end")
    if len(around) > MAX_DEPTH:
        raise CrossresError(f"nested in more than {MAX_DEPTH} levels")
    if id(node) not in counted:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            _demand_once([key for key, _ in parts if isinstance(key, yaml.ScalarNode)])
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        counted[id(node)] = 1 + sum(_count(child, counted, [*around, id(node)]) for child in children)
    if counted[id(node)] > MAX_VALUES:
        raise CrossresError(f"more than {MAX_VALUES:,} values, aliases written out; options are a few lines")
    return counted[id(node)]


def _demand_once(keys: list[Any]) -> None:
    """Refuse a key that stands twice, which PyYAML takes the last of."""
    seen: dict[str, int] = {}
    for key in keys:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise CrossresError(
                f"'{key.value}' stands twice, in lines {seen[key.value]} and {line}; keep one of them"
            )
        seen[key.value] = line
