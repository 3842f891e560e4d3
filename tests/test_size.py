"""Limits that keep the code readable: length of functions and files, and no circle of imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("codec", "lm", "pipelines")
LONGEST_FILE = 350
LONG_FUNCTION = 60
LONG_SHARE = 0.005  # of all functions may be longer than that


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_file_is_long() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}


def test_hardly_a_function_is_long() -> None:
    found = {}
    for path in sources():
        for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
            found[f"{name_of(path)}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    long = {name: count for name, count in found.items() if count > LONG_FUNCTION}
    assert len(long) <= LONG_SHARE * len(found), long


def imports_at_load(path: Path, modules: set[str]) -> set[str]:
    """Modules of ours that are imported while this one is loaded: not in functions, not for type checkers alone."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{name.name}" for name in node.names}
                found.update(names & modules or {str(node.module)})
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
                visit([*node.body, *node.orelse])
            elif isinstance(node, ast.Try):
                visit([*node.body, *node.orelse, *(line for handler in node.handlers for line in handler.body)])

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found & modules - {name_of(path)}


def test_no_circle_of_imports() -> None:
    modules = {name_of(path) for path in sources()}
    graph = {name_of(path): imports_at_load(path, modules) for path in sources()}
    # A package's own __init__ may be imported by its modules' neighbours, and imports them: that is its face.
    faces = {name_of(path) for path in sources() if path.name == "__init__.py"}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - faces):
                walk(other, (*trail, name))
            done.add(name)

    for name in sorted(modules - faces):
        walk(name, ())
