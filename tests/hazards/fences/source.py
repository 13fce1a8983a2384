"""Finds the fences of the library in its source, and takes one away."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

__all__ = ["PACKAGES", "ROOT", "Place", "fences", "waits", "without"]

ROOT = Path(__file__).parents[3]
PACKAGES = ("aio_sched", "streams", "buffers")

_NAMES_A_HAZARD = re.compile(r"#\s*((?:RAW|WAR|WAW):.*)")


class Place(NamedTuple):
    """A comment that names a hazard.

    Attributes:
        file: from the root of the checkout.
        function: the qualified name of the function that it stands in, empty outside of any.
        words: what it says in its first line.
        line: where it stands.
    """

    file: str
    function: str
    words: str
    line: int


@cache
def fences(root: Path = ROOT) -> tuple[Place, ...]:
    """Return every comment of the packages that names a hazard."""
    files = (file for name in PACKAGES for file in sorted((root / name).rglob("*.py")))
    return tuple(place for file in files for place in _fences_of(root, file))


def _fences_of(root: Path, file: Path) -> Iterator[Place]:
    source = file.read_text()
    functions: list[tuple[ast.stmt, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or (said := _NAMES_A_HAZARD.match(token.string)) is None:
            continue
        functions = functions or list(_functions(ast.parse(source)))
        line = token.start[0]
        around = [name for node, name in functions if node.lineno <= line <= _end(node)]
        yield Place(file.relative_to(root).as_posix(), around[-1] if around else "", said[1], line)


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[ast.stmt, str]]:
    """Give all functions with their qualified names, outer ones first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, prefix + child.name
            yield from _functions(child, f"{prefix}{child.name}.<locals>.")
        else:
            name = f"{child.name}." if isinstance(child, ast.ClassDef) else ""
            yield from _functions(child, prefix + name)


def waits(root: Path = ROOT) -> list[Place]:
    """Return where the packages above ``streams`` let one device stream wait for another."""
    files = (
        file
        for name in PACKAGES
        for file in sorted((root / name).rglob("*.py"))
        if name != "streams" and file.parent.name != "bench"
    )
    return [place for file in files for place in _waits_of(root, file)]


def _waits_of(root: Path, file: Path) -> Iterator[Place]:
    for owner, function in _functions(ast.parse(file.read_text())):
        for node in ast.walk(owner):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if (name := node.func.attr) in ("wait_stream", "wait_event"):
                yield Place(file.relative_to(root).as_posix(), function, name, node.lineno)


@contextmanager
def without(file: str, function: str, line: int, instead: str = "pass") -> Iterator[None]:
    """Run a function of the library without one of its statements while the block lasts.

    Its code is swapped, so that who holds the function, bound or not, calls the other one.

    Args:
        file: from the root of the checkout.
        function: its qualified name; not one that is nested in another.
        line: the first statement that begins behind this line goes, with all that is in it.
        instead: what to put in its place.
    """
    owner = _function(file, function)
    former = owner.__code__
    owner.__code__ = _mutated(file, function, line, instead)
    try:
        yield
    finally:
        owner.__code__ = former


@cache
def _mutated(file: str, function: str, line: int, instead: str) -> CodeType:
    path = ROOT / file
    tree = ast.parse(path.read_text())
    owner = next(node for node, name in _functions(tree) if name == function)
    swap = _Swap(_first_behind(owner, line), ast.parse(instead).body)
    code = compile(ast.fix_missing_locations(swap.visit(tree)), str(path), "exec")
    return _code_of(code, function)


def _first_behind(owner: ast.stmt, line: int) -> ast.stmt:
    behind = [n for n in ast.walk(owner) if isinstance(n, ast.stmt) and n.lineno > line]
    # Of two that begin in one place the outer one: ast.walk gives it first.
    return min(behind, key=lambda node: node.lineno)


class _Swap(ast.NodeTransformer):
    def __init__(self, target: ast.stmt, replacement: list[ast.stmt]) -> None:
        self._target = target
        self._replacement = replacement

    def visit(self, node: ast.AST) -> Any:
        if node is not self._target:
            return self.generic_visit(node)
        return [ast.copy_location(each, self._target) for each in self._replacement]


def _code_of(code: CodeType, function: str) -> CodeType:
    if code.co_qualname == function:
        return code
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    around = (each for each in inner if f"{function}.".startswith(f"{each.co_qualname}."))
    return _code_of(next(around), function)


def _function(file: str, function: str) -> FunctionType:
    found: Any = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for name in function.split("."):
        found = inspect.getattr_static(found, name)
    found = inspect.unwrap(getattr(found, "fget", found))
    assert isinstance(found, FunctionType), f"{file} {function} is {found!r}"
    return found


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno
