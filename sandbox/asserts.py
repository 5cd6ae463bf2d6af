"""Reading assert code on the host, to decide where it is judged.

`assert f(literals) == literal` (nearly all of MBPP) becomes a call whose value the host compares by
Python's own ==; the expected value never enters a container. Any other assert code runs as a *referee* in a
container of its own, which no solution ever enters; its free names are proxies whose calls go out to the
solution's container and come back as plain data. So early exit, patched builtins, always-equal objects and
forged output cannot pass in either: the assertion runs where the solution is not. Functions named test*, which
pytest would call, are called; assert code of which no assert could ever run is refused, or all would pass.

Can't be excluded: a solution that recognises the arguments and answers from memory. Not supported, and
judged as unequal: asserts that compare objects of the solution's own classes (their `__eq__` is untrusted).
Assert code is trusted to be honest but is contained all the same.
"""

from __future__ import annotations

import ast
import builtins
import functools
import symtable
import sys
from dataclasses import dataclass
from typing import Any

from sandbox.errors import BadTestCase


@dataclass(frozen=True)
class LiteralCall:
    """`assert name(*args, **kwargs) == expected`."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: Any


@dataclass(frozen=True)
class Referee:
    """Assert code to run apart; `names` are the solution's, `modules` are imported for it."""

    code: str
    names: tuple[str, ...]
    modules: tuple[str, ...]


@functools.lru_cache(maxsize=4096)  # the same tests meet many responses
def plan(code: str, entry_point: str | None = None) -> LiteralCall | Referee:
    """How to judge this assert code. Raises BadTestCase when it does not parse or asserts nothing."""
    try:
        tree = ast.parse(code)
        names = _free_names(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTestCase(f"assert code does not parse: {error or type(error).__name__}") from None
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        raise BadTestCase("assert code holds no assert")
    literal = _literal_call(tree)
    if literal:
        return literal
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "check" in defined and not _calls_at_top(tree, "check"):
        if not entry_point:
            raise BadTestCase("assert code defines check(candidate) and needs an entry_point")
        code = f"{code}\ncheck({entry_point})\n"
        names.add(entry_point.split(".")[0])
        tree = ast.parse(code)
    for name in _tests(tree):
        code = f"{code}\n{name}()\n"
        tree = ast.parse(code)
    if not _may_assert(tree):
        raise BadTestCase("no assert of the assert code is ever run: nothing calls the function or class it is in")
    modules = {name for name in names if name in sys.stdlib_module_names and _only_attribute(tree, name)}
    ours = {name for name in names - modules if not hasattr(builtins, name) or name == entry_point}
    # A test that asks for builtins alone means a solution's function of that name (MBPP/126 defines `sum`).
    ours = ours or names - modules
    return Referee(code, tuple(sorted(ours)), tuple(sorted(modules)))


def _free_names(code: str) -> set[str]:
    """Global names that the code reads and does not bind at its top level."""
    top = symtable.symtable(code, "test", "exec")
    bound = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    bound |= {symbol.get_name() for symbol in top.get_symbols() if symbol.is_namespace()}
    found: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                found.add(symbol.get_name())
    return {name for name in found - bound if not (name.startswith("__") and name.endswith("__"))}


def _literal_call(tree: ast.Module) -> LiteralCall | None:
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Assert):
        return None
    test = tree.body[0].test
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        return None
    call = test.left
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        return None
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    try:
        return LiteralCall(
            call.func.id,
            tuple(ast.literal_eval(arg) for arg in call.args),
            {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords},
            ast.literal_eval(test.comparators[0]),
        )
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _calls_at_top(tree: ast.Module, name: str) -> bool:
    others = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = [node for statement in others for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def _tests(tree: ast.Module) -> list[str]:
    """Functions that pytest would call: test*, without arguments (of fixtures nothing is known here)."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test")
        and not (node.args.args or node.args.posonlyargs or node.args.kwonlyargs)
        and not _calls_at_top(tree, node.name)
    ]


def _may_assert(tree: ast.Module) -> bool:
    """Whether an assert can be reached from the top level, through functions and classes that are named there."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name: node for node in tree.body if isinstance(node, kinds)}
    pending: list[ast.stmt] = [node for node in tree.body if not isinstance(node, kinds)]
    while pending:
        for node in ast.walk(pending.pop()):
            if isinstance(node, ast.Assert | ast.Raise):
                return True
            if isinstance(node, ast.Name) and node.id in defined:
                pending.append(defined.pop(node.id))
    return False


def _only_attribute(tree: ast.Module, name: str) -> bool:
    """Whether every use of `name` is `name.something`, as with a module."""
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    dotted = sum(
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
        for node in ast.walk(tree)
    )
    return uses == dotted
