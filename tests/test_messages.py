"""Every message of the library is a sentence that says who refuses what, what was expected and what came.

Wordings are judged here, in the source, and compared word for word only in the suites of ``WORDINGS``. Every other test
of an error names its class and the noun that tells it from the function's other errors.
"""

import ast
import re
from pathlib import Path

from written_messages import CLAUSES, Message, Source, messages, sources

REASONS = {
    ("data/array_file.py", "_read_members"): "told inside the error that names the damaged file",
    ("data/array_file.py", "_read_array"): "told inside the error that names the damaged file",
    ("data/cifar_10.py", "find_class"): "told inside the error that names the file",
    ("runtime/reading.py", "_check"): "told inside the error that names the file",
    ("runtime/reading.py", "_unique"): "told inside the error that names the file",
    ("runtime/reading.py", "compose_node"): "told inside the error that names the file",
    ("runtime/noise.py", "__torch_dispatch__"): "caught: the samples are run in another layout",
    ("programs/pair.py", "_check_repeated"): "caught: the samples are run in another layout",
}
"""Functions whose errors hold a reason, as the exceptions of ``CLAUSES`` do, and why."""

WORDINGS = {"tests/cli/test_messages.py", "tests/fit/test_errors.py"}
"""The suites whose subject is the wording itself."""

LONGEST = 32
"""Characters of a pattern that still names the noun and does not repeat the sentence."""

TESTS = Path(__file__).parent
NO_ENTRY = {"cli", "comparison", "runtime", "programs", "fit"}
"""Folders whose errors may be about a file, a flag, a site or a plate, which they name in place of a function."""


def is_clause(message: Message) -> bool:
    """Whether another message tells this one as its reason, or a line of the log."""
    inside = (message.file, message.function) in REASONS
    # What a function raises and catches, it tells in its own error.
    return message.kind in (*CLAUSES, "log") or inside or message.caught


SENTENCES = [message for message in messages() if not is_clause(message)]


def those(said: list[Message], pattern: str) -> list[str]:
    """The messages whose words have a pattern."""
    return [str(message) for message in said if re.search(pattern, message.words)]


def without(said: list[Message], pattern: str) -> list[str]:
    """The messages whose words do not have a pattern."""
    return [str(message) for message in said if not re.search(pattern, message.words)]


def constants(expression: ast.AST) -> list[str]:
    """The texts in an expression."""
    return [str(part.value) for part in ast.walk(expression) if isinstance(part, ast.Constant)]


def test_a_message_is_read_with_each_of_its_texts():
    code = """
def refuse(who, size, is_flag):
    hint = "Lower it." if is_flag else "Raise it."
    raise ValueError(f"{who}: size must be 1; got {size!r}. " + hint)

def check(size):
    refuse("check", size, False)
"""
    source = Source("code.py", ast.parse(code))
    texts = ["{who}: size must be 1; got {size}. Lower it.", "{who}: size must be 1; got {size}. Raise it."]
    assert [message.text for message in source.messages()] == texts


def test_the_messages_are_found():
    """Each ``raise`` of an exception with arguments is read, or raises what is told elsewhere."""
    read = {(message.file, message.line) for message in messages()}
    unread = [
        f"{source.file}:{node.lineno} {ast.unparse(node)}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and (source.file, node.exc.lineno) not in read
        and ast.unparse(node.exc.func).endswith("Error")
        and re.search("[a-z] [a-z]", " ".join(constants(node.exc.args[0])))
    ]  # fmt: skip
    assert not unread
    assert len(read) > 500
    of_a_call = [message.words for message in messages() if message.file == "guides/low_rank.py"]
    assert any(words.startswith("LowRankGuide: rank must be from {} to {}") for words in of_a_call)


def test_no_exemption_is_left_over():
    made_in = {(message.file, message.function) for message in messages()}
    assert set(REASONS) <= made_in
    assert {message.kind for message in messages()} >= CLAUSES


def test_a_message_is_a_whole_sentence():
    """It ends in a stop, or in what another sentence says: a cause after a colon, or a hint after a stop."""
    assert not without(SENTENCES, r"([.?]|[:.] ?\{\})$")


def test_a_reason_ends_without_a_stop():
    """It is put into the sentence that tells it."""
    reasons = [
        message for message in messages() if message.kind in CLAUSES or (message.file, message.function) in REASONS
    ]
    assert not those(reasons, r"[.?!]$")


def test_a_message_is_one_line_in_one_piece():
    """No newline, no word that lacks its blank, no bracket and no quoted code that stays open."""
    everything = list(messages())
    assert not those(everything, r"\n|  |[;,][A-Za-z]")
    for opening, closing in ("()", "[]"):
        assert not [str(found) for found in everything if found.words.count(opening) != found.words.count(closing)]
    assert not [str(found) for found in everything if found.words.count("`") % 2]


def test_a_message_speaks_of_its_subject():
    """Neither of the program as a person, nor to its reader with courtesies or exclamations."""
    assert not those(
        list(messages()), r"\b(I|[Ww]e|[Oo]urs?|us|me|[Mm]y|[Pp]lease|[Ss]orry|[Nn]ote that)\b|!|n't\b|'re\b|'ll\b"
    )


def test_a_message_says_what_is_expected_in_place_of_a_verdict():
    assert not those(
        list(messages()), r"(?i)\b(invalid|illegal|wrong|bad|incorrect|improper|unsupported|not allowed)\b"
    )


def test_a_message_starts_with_a_name_or_in_small_letters():
    """Another program's name, a flag or a file may be put before it."""
    assert not those(SENTENCES, r"^[A-Z][a-z]*\s")


def test_a_message_names_who_refuses():
    """A function or a class before a colon; files, flags, sites and plates are named as what the message is about."""
    entries = [
        message for message in SENTENCES if message.file.partition("/")[0] not in NO_ENTRY and "/" in message.file
    ]
    assert not without(entries, r"^\{\}|^[\w.]+(\(.*?\))?: |^imported as ")
    others = [message for message in SENTENCES if message not in entries]
    assert not without(others, r"^[\w.]+: |\{\}|'\w+'|--\w|`.+`|^the (model|guide) ")


def test_what_must_be_is_said_with_what_came():
    """An argument that must be something is followed by a semicolon and what it is."""
    must = [message for message in SENTENCES if re.search(r"(^|: )(?!it )\S+ must (be|lie|have|hold) ", message.words)]
    assert len(must) > 80
    assert not without(must, r"\bmust\b.*(; |, here |, which )")


def test_what_came_follows_a_semicolon():
    assert not those(list(messages()), r"(?<!; )\bgot\b")


def test_an_unknown_name_is_said_with_the_known_ones():
    unknown = [message for message in SENTENCES if re.search(r"\bunknown \w+ \{\}", message.words)]
    assert unknown
    assert not without(unknown, r"(?i)\bthere are \{\}")


def test_an_argument_stands_bare():
    """So do flags take its place on the command line; backticks are for code, fields of files and networks."""
    arguments = [message for message in SENTENCES if message.kind == "ValueError"]
    assert not those(arguments, r": `(?!encoder|decoder|\{\})\w+` must")


def patterns(tree: ast.Module) -> list[tuple[int, str]]:
    """The patterns of a test file, with their lines and ``{}`` for values, also where they are a test's parameter."""
    found = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        raised = [call for call in calls if ast.unparse(call.func) in ("pytest.raises", "pytest.warns")]
        for pattern in (keyword.value for call in raised for keyword in call.keywords if keyword.arg == "match"):
            names = {node.id for node in ast.walk(pattern) if isinstance(node, ast.Name)}
            for value in [pattern, *parameters(function, names), *assigned(function, names)]:
                found += [(value.lineno, text.replace("\\", "")) for text in Source("", tree).texts(value, None)]
    return [(line, re.sub(r"\{[^{}]*\}", "{}", text)) for line, text in found]


def parameters(function: ast.FunctionDef, names: set[str]) -> list[ast.expr]:
    """The texts that decorators give a test for parameters of these names."""
    values = []
    for mark in (node for node in function.decorator_list if isinstance(node, ast.Call) and len(node.args) == 2):
        named, given = mark.args
        columns = [node.value for node in ast.walk(named) if isinstance(node, ast.Constant)]
        for row in given.elts if isinstance(given, ast.List) else []:
            cells = row.elts if isinstance(row, ast.Tuple) and len(columns) > 1 else [row]
            values += [cell for name, cell in zip(columns, cells, strict=False) if name in names and is_text(cell)]
    return values


def assigned(function: ast.FunctionDef, names: set[str]) -> list[ast.expr]:
    """The texts that a test puts into these names."""
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Assign) and is_text(node.value)]
    return [node.value for node in nodes if names & set(map(ast.unparse, node.targets))]


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_a_test_matches_the_noun_and_not_the_sentence():
    """Otherwise a better sentence would break it."""
    long = []
    for path in sorted(TESTS.rglob("*.py")):
        file = str(path.relative_to(TESTS.parent))
        if file not in WORDINGS:
            long += [
                f"{file}:{line} {text}"
                for line, text in patterns(ast.parse(path.read_text("utf-8")))
                if len(text) > LONGEST
            ]
    assert not long
