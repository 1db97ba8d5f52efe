"""What the library's source writes in its errors and warnings, with ``{expression}`` where a value is put in."""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pyro_vae"
FOLDERS = (PACKAGE, PACKAGE / "models", PACKAGE / "guides")
"""Two of the package's folders are links, which a search from the package does not follow."""

CLAUSES = {"NotTraceable", "NotCompilable", "ForeignDensityError", "UnitKLError", "DependentUnitsError",
           "_RefusedError", "MarkedYAMLError"}  # fmt: skip
"""Exceptions that hold a reason, which is told inside another sentence."""

MOST_VARIANTS = 48
"""Texts that are followed of one message, whose parts may each be one of several."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
"""Of a module or a class, or inside another one."""


@dataclass(frozen=True)
class Message:
    """One text of an exception or a warning.

    Attributes:
        file: relative to the package.
        line: where it is made, or where the function is called that makes it.
        kind: the exception's class, or ``warn``.
        text: with ``{expression}`` for values.
        caught: the function that raises it catches it.
        function: which makes it.
    """

    file: str
    line: int
    kind: str
    text: str
    caught: bool
    function: str

    @property
    def words(self) -> str:
        """The text, with ``{}`` for each value."""
        return re.sub(r"\{[^{}]*\}", "{}", self.text)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.kind}: {self.text}"


@dataclass
class Source:
    """A module of the package, with the functions that it defines."""

    file: str
    tree: ast.Module

    def __post_init__(self) -> None:
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def texts(self, node: ast.AST | None, around: Function | None, seen: frozenset[str] = frozenset()) -> list[str]:
        """Return the texts that an expression may be, each with ``{expression}`` for what the source does not write."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values, around, seen)
        if isinstance(node, ast.FormattedValue):
            plain = node.conversion == -1 and node.format_spec is None
            return self.texts(node.value, around, seen) if plain else [_placeholder(node.value)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and _is_text(node.left):
            return self._joined([node.left, node.right], around, seen)
        if isinstance(node, ast.IfExp | ast.BoolOp):
            parts = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse]
            if ast.unparse(parts[0]) == "': '":  # it is left out with the name that it follows
                return [": "]
            return [text for part in parts for text in self.texts(part, around, seen)]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("rstrip", "strip")
        ):
            return [text.strip() for text in self.texts(node.func.value, around, seen)]
        return self._followed(node, around, seen) or [_placeholder(node)]

    def _joined(self, parts: list[ast.expr], around: Function | None, seen: frozenset[str]) -> list[str]:
        variants = [self.texts(part, around, seen) for part in parts]
        return ["".join(chosen) for chosen in itertools.islice(itertools.product(*variants), MOST_VARIANTS)]

    def _followed(self, node: ast.AST | None, around: Function | None, seen: frozenset[str]) -> list[str]:
        """Return the texts of what a name was set to, or of what a function of this module returns."""
        if isinstance(node, ast.Name) and node.id not in seen:
            inside = [*ast.walk(around)] if around else []
            for nodes in (inside, self.tree.body):
                values = [
                    found.value
                    for found in nodes
                    if isinstance(found, ast.Assign | ast.AnnAssign) and node.id in map(ast.unparse, _targets(found))
                ]
                if values:
                    return [text for value in values for text in self.texts(value, around, seen | {node.id})]
        if isinstance(node, ast.Call) and (name := _name(node.func)) not in seen:
            for function in self.functions:
                if function.name == name and function.returns and ast.unparse(function.returns) == "str":
                    returned = [found.value for found in ast.walk(function) if isinstance(found, ast.Return)]
                    return [text for value in returned for text in self.texts(value, function, seen | {name})]
        return []

    def enclosing(self, node: ast.AST) -> Function | None:
        """Return the innermost function around a node."""
        around = [function for function in self.functions if _inside(node, function)]
        return max(around, key=lambda function: function.lineno, default=None)

    def is_caught(self, node: ast.AST, kind: str) -> bool:
        """Whether a node is in the body of a ``try`` of its own function that catches exceptions of its class."""
        for found in ast.walk(self.enclosing(node) or self.tree):
            if isinstance(found, ast.Try) and any(_inside(node, line) for line in found.body):
                caught = {_name(name) for handler in found.handlers for name in _classes(handler)}
                if caught & {kind, "Exception"}:
                    return True
        return False

    def messages(self) -> Iterator[Message]:
        """Return the messages that this module makes itself."""
        for node in ast.walk(self.tree):
            if made := _made(self, node):
                kind, expression = made
                around = self.enclosing(node)
                name = around.name if around else ""
                for text in self.texts(expression, around):
                    yield Message(self.file, node.lineno, kind, text, self.is_caught(node, kind), name)

    @property
    def imported(self) -> set[str]:
        """The files of the package that this module imports from."""
        modules = {node.module for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom) and node.module}
        return {module.removeprefix("pyro_vae.").replace(".", "/") + ".py" for module in modules}


def _is_text(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.JoinedStr | ast.Constant) and ast.unparse(part)[-1] in "'\"" for part in ast.walk(node)
    )


def _inside(node: ast.AST, around: ast.AST) -> bool:
    return around.lineno <= node.lineno and node.end_lineno <= around.end_lineno


def _classes(handler: ast.ExceptHandler) -> list[ast.expr]:
    return handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _name(node: ast.AST) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _placeholder(node: ast.AST | None) -> str:
    return "{" + re.sub(r"[{}]", "", ast.unparse(node) if node else "") + "}"


@cache
def sources() -> tuple[Source, ...]:
    """Return the modules of the package."""
    paths = sorted({path for folder in FOLDERS for path in folder.rglob("*.py")})
    return tuple(Source(str(path.relative_to(PACKAGE)), ast.parse(path.read_text("utf-8"))) for path in paths)


def _made(source: Source, node: ast.AST) -> tuple[str, ast.expr] | None:
    """Return the class and the text of an exception or a warning, if a node makes one."""
    if not isinstance(node, ast.Call):
        return None
    name, text = _name(node.func), node.args[0] if node.args else None
    if ast.unparse(node.func) == "logger.warning" and isinstance(text, ast.Constant):
        return "log", ast.Constant(re.sub("%[sdr]", "{}", text.value))
    for keyword in node.keywords:
        text = keyword.value if keyword.arg in ("message", "problem") else text
    if ast.unparse(node.func) == "super().__init__":
        classes = [found for found in ast.walk(source.tree) if isinstance(found, ast.ClassDef) and _inside(node, found)]
        name = classes[-1].name if classes else name
    is_message = name in CLAUSES or name == "warn" or re.search(r"(Error|Warning)$", name)
    return (name, text) if is_message and text is not None else None


def _parameters(function: Function) -> list[str]:
    names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _filled(messages: list[Message]) -> Iterator[Message]:
    """Return the messages that functions make of their arguments, with the texts that each call passes."""
    makers: dict[str, list[tuple[str, Function, Message]]] = {}
    for message in messages:
        source = next(source for source in sources() if source.file == message.file)
        for function in source.functions:
            holes = any("{" + name + "}" in message.text for name in _parameters(function))
            if holes and function.name == message.function != "__init__":
                makers.setdefault(function.name, []).append((message.file, function, message))
    for source in sources():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call) or _name(node.func) not in makers:
                continue
            candidates = makers[_name(node.func)]
            own = [candidate for candidate in candidates if candidate[0] == source.file]
            near = own or [candidate for candidate in candidates if candidate[0] in source.imported]
            if len({file for file, _, _ in near}) > 1:  # which of them it is, the source does not say
                continue
            for _, function, message in near:
                names = _parameters(function)
                given = dict(zip(names, node.args, strict=False))
                given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                if len(node.args) > len(names) or not set(given) <= set(names):
                    continue
                texts = [message.text]
                for name, value in given.items():
                    hole = "{" + name + "}"
                    if hole in message.text:
                        fillings = source.texts(value, source.enclosing(node))
                        texts = [text.replace(hole, filling) for text in texts for filling in fillings]
                for text in texts[:MOST_VARIANTS]:
                    yield replace(message, file=source.file, line=node.lineno, text=text)


@cache
def messages() -> tuple[Message, ...]:
    """Return every message of the library whose text its source writes, at least in part."""
    written = [message for source in sources() for message in source.messages()]
    known = {message.words for message in written}
    filled = [message for message in _filled(written) if message.words not in known]
    by_words = {(message.file, message.line, message.words): message for message in (*written, *filled)}
    return tuple(message for message in by_words.values() if re.search("[a-z]", message.words))
