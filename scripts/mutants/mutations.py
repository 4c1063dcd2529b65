"""Finds the small mistakes that could be made in a module: its mutants. Pure.

Human text is left alone (f-strings, docstrings, and strings with a space in them): another word in
a message is no wrong decision, and a test that pins prose only stands in the way. So are types,
decorators, `__slots__` and the values of an `Enum` that is no text.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_COMPARISONS: Final[dict[type[ast.cmpop], ast.cmpop]] = {
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
    ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(),
    ast.Is: ast.IsNot(),
    ast.IsNot: ast.Is(),
    ast.In: ast.NotIn(),
    ast.NotIn: ast.In(),
}
_OPERATORS: Final[dict[type[ast.operator], ast.operator]] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.FloorDiv(),
    ast.Div: ast.Mult(),
    ast.FloorDiv: ast.Mult(),
    ast.Mod: ast.Mult(),
    ast.Pow: ast.Mult(),
    ast.LShift: ast.RShift(),
    ast.RShift: ast.LShift(),
    ast.BitAnd: ast.BitOr(),
    ast.BitOr: ast.BitAnd(),
    ast.BitXor: ast.BitOr(),
}
_NAMES: Final = {
    one: other
    for pair in (
        ("min", "max"),
        ("any", "all"),
        ("startswith", "endswith"),
        ("lower", "upper"),
        ("lstrip", "rstrip"),
        ("partition", "rpartition"),
        ("removeprefix", "removesuffix"),
        ("fullmatch", "match"),
        ("popitem", "clear"),
    )
    for one, other in (pair, pair[::-1])
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake in one module.

    Attributes:
        name: Says which it is, and stays the same while the code around it changes.
        line: Where it is.
        source: The whole module with the mistake in it.
    """

    name: str
    line: int
    source: bytes


def find_mutants(module: str, source: bytes) -> Iterator[Mutant]:
    """Yields every mutant of a module, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    finder = _Finder()
    finder.visit(ast.parse(source))
    seen: Counter[str] = Counter()
    for scope, first, last, new in sorted(finder.found, key=lambda each: each[1].lineno):
        begin = starts[first.lineno - 1] + first.col_offset
        end = starts[(last.end_lineno or 0) - 1] + (last.end_col_offset or 0)
        old = " ".join(source[begin:end].decode().split())
        name = f"{module} {scope}: {old} -> {new}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" #{seen[name]}"
        mutated = source[:begin] + new.encode() + source[end:]
        yield Mutant(name=name, line=first.lineno, source=mutated)


_Place = ast.expr | ast.stmt


class _Finder(ast.NodeVisitor):
    """Collects what can be replaced: scope, first and last node, and what stands there instead."""

    def __init__(self) -> None:
        self.found: list[tuple[str, _Place, _Place, str]] = []
        self._scope: list[str] = []

    def _replace(self, node: _Place, new: ast.AST | str) -> None:
        text = new if isinstance(new, str) else f"({ast.unparse(new)})"
        self.found.append((".".join(self._scope) or "-", node, node, text))

    def _visit_all(self, nodes: Sequence[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _visit_scope(self, name: str, body: list[ast.stmt]) -> None:
        self._scope.append(name)
        self._visit_all(body)
        self._scope.pop()

    # What is left alone, or in part.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        is_enum = [ast.unparse(base) for base in node.bases] == ["Enum"]
        body = [each for each in node.body if not (is_enum and isinstance(each, ast.Assign))]
        self._visit_scope(node.name, body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all([*node.args.defaults, *node.args.kw_defaults])
        self._visit_scope(node.name, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast.NodeVisitor

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text, in which places are not told exactly before Python 3.12."""

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, repr(not value))
        elif isinstance(value, int | float):
            self._replace(node, repr(value + 1))
        elif isinstance(value, bytes):
            self._replace(node, repr(value + b"x"))
        elif isinstance(value, str) and not _is_text(node):
            self._replace(node, repr(value + "x"))

    # Statements.

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring, or ...
            self._replace(node, "pass")
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assigned(node.targets[0], node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._assigned(node.target, node.value)

    def _assigned(self, target: ast.expr, value: ast.expr | None) -> None:
        name = ast.unparse(target)
        if value is None or name in {"__all__", "__slots__"}:
            return
        if self._scope:
            self._given(value)
        else:  # A constant, whose name says best where it is.
            self._scope.append(name)
        self.visit(value)
        if self._scope == [name]:
            self._scope.pop()

    def _given(self, value: ast.expr) -> None:
        if not isinstance(value, ast.Constant):
            self._replace(value, "None")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        other = _OPERATORS[type(node.op)]
        self._replace(node, ast.unparse(ast.AugAssign(node.target, other, node.value)))
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._given(node.value)
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")
        self._visit_all([node.exc])

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self._condition(node.test)
            self._visit_all([*node.body, *node.orelse])

    def visit_While(self, node: ast.While) -> None:
        self._condition(node.test)
        self._visit_all([*node.body, *node.orelse])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self._visit_all([node.body, node.orelse])

    def _condition(self, test: ast.expr) -> None:
        is_negated_below = isinstance(test, ast.UnaryOp) or (
            isinstance(test, ast.Compare)
            and isinstance(
                test.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
            )
        )
        if not is_negated_below and not isinstance(test, ast.Constant):
            self._replace(test, ast.UnaryOp(ast.Not(), test))
        self.visit(test)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        if isinstance(node, ast.For):
            self._replace(node.iter, "()")
        self._visit_all([node.iter, *node.body, *node.orelse])

    visit_AsyncFor = visit_For  # noqa: N815 - ast.NodeVisitor

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if not isinstance(node.body[0], ast.Raise):
            scope = ".".join(self._scope) or "-"
            self.found.append((scope, node.body[0], node.body[-1], "raise"))
        self._visit_all(node.body)

    # Expressions.

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        for test in node.ifs:
            self._condition(test)

    def visit_Compare(self, node: ast.Compare) -> None:
        for at, operator in enumerate(node.ops):
            others = [*node.ops[:at], _COMPARISONS[type(operator)], *node.ops[at + 1 :]]
            self._replace(node, ast.Compare(node.left, others, node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, ast.BoolOp(other, node.values))
        for at in range(len(node.values)):
            rest = [*node.values[:at], *node.values[at + 1 :]]
            self._replace(node, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._replace(node, node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _OPERATORS:
            self._replace(node, ast.BinOp(node.left, _OPERATORS[type(node.op)], node.right))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in _NAMES:
            self._replace(node, _NAMES[node.id])

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in _NAMES:
            other = ast.Attribute(node.func.value, _NAMES[node.func.attr], ast.Load())
            self._replace(node.func, ast.unparse(other))
        for at, keyword in enumerate(node.keywords):
            if keyword.arg is not None and not _is_text(keyword.value):
                rest = [*node.keywords[:at], *node.keywords[at + 1 :]]
                self._replace(node, ast.unparse(ast.Call(node.func, node.args, rest)))
        self.generic_visit(node)


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is written for people."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    )
