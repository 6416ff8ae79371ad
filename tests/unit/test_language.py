"""Words that this project does not use, in prose and in names, counted per 1,000 lines.

The text of this repository is read by engineers who did not grow up with English, so it uses the terms of Spark, Delta,
MLlib, MLflow and scikit-learn (docs/glossary.md). The lists below hold words that an earlier version used instead.

List the hits of some files: python tests/unit/test_language.py lib/profilestream/capture README.md
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TREES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "llms.txt",
    "lib",
    "jobs",
    "docs",
    "conf",
    "deploy",
    "tests",
    "benchmarks",
)
PROSE_PER_1000_LINES, NAMES_PER_1000_LINES = 1.5, 1.0

PROSE = re.compile(
    r"\b(?:"
    r"told|tells?|foretells?|foretold|sa(?:id|ys?)|mend(?:s|ed|ing)?|anew|swept|sweeps?|crown(?:s|ed)?"
    r"|dear(?:er|est)?|unheard|hears?|heard|beside|nobody|no one|hitherto|thereof|wherein|forthwith"
    r"|stands?|lies|hangs? on|as it came|what it is|what is there|by hand|(?:is|are|was|were) asked"
    r"|ask(?:s|ed)? (?:for|of)|comes? in|came in|go(?:es)? on|takes? along|made of|gives? back|of late"
    r"|judge[ds]?|kept|newest word|twin|whoever"
    r")\b",
    re.IGNORECASE,
)
NAMES = frozenset(
    "found told made known said kept given came gone beside seen asked going being heard anew swept".split()
)

# By file: words that are right there, and why.
EXCEPTIONS: dict[str, tuple[frozenset[str], str]] = {
    "tests/unit/test_language.py": (frozenset({"*"}), "the lists themselves"),
    "docs/decisions/0026-names.md": (frozenset({"*"}), "the old names"),
}
NAME_EXCEPTIONS = {
    "given": "the decorator of hypothesis",
    "known_by": "the parameter of as-of reads: only events ingested by then",
}


def files(*trees: str) -> list[Path]:
    """Text files under the trees that people read, relative to the repository."""
    found: list[Path] = []
    for tree in trees:
        path = ROOT / tree
        found += [path] if path.is_file() else sorted(path.rglob("*"))
    texts = (path for path in found if path.suffix in (".py", ".md", ".toml", ".conf", ".properties", ".txt"))
    return [path.relative_to(ROOT) for path in texts if "results" not in path.parts]


def prose_hits(path: Path) -> Iterator[tuple[int, str]]:
    """Line and word of every unwanted word in comments, docstrings, messages and documents."""
    words = EXCEPTIONS.get(str(path), (frozenset[str](), ""))[0]
    for line, text in _prose(path):
        for match in PROSE.finditer(text):
            word = match.group().lower()
            if word not in words and "*" not in words:
                yield line + text.count("\n", 0, match.start()), word


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    text = (ROOT / path).read_text()
    if path.suffix != ".py":
        yield 1, text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def name_hits(path: Path) -> Iterator[tuple[int, str]]:
    """Line and identifier of every assigned, defined or called name that has an unwanted word as a part."""
    if path.suffix != ".py" or "*" in EXCEPTIONS.get(str(path), (frozenset[str](), ""))[0]:
        return
    for line, name in _names(ast.parse((ROOT / path).read_text())):
        if name not in NAME_EXCEPTIONS and not NAMES.isdisjoint(name.lower().split("_")):
            yield line, name


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def _report(kind: str, hits: list[str], lines: int, bound: float) -> str:
    return f"{len(hits)} {kind} in {lines:,} lines; at most {bound} per 1,000 are allowed:\n" + "\n".join(hits[:200])


def test_prose_uses_the_terms_of_the_field() -> None:
    paths = files(*TREES)
    lines = sum((ROOT / path).read_text().count("\n") for path in paths)
    hits = [f"{path}:{line}: {word}" for path in paths for line, word in prose_hits(path)]
    assert 1000 * len(hits) <= PROSE_PER_1000_LINES * lines, _report("words", hits, lines, PROSE_PER_1000_LINES)


def test_names_are_nouns_and_verbs_of_the_field() -> None:
    paths = files(*TREES)
    lines = sum((ROOT / path).read_text().count("\n") for path in paths)
    hits = [f"{path}:{line}: {name}" for path in paths for line, name in name_hits(path)]
    assert 1000 * len(hits) <= NAMES_PER_1000_LINES * lines, _report("names", hits, lines, NAMES_PER_1000_LINES)


def test_an_unwanted_word_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        '"""Rows.\n\nWhat the table says."""\nfound = 1\nis_told = len(str(found))\nprint("mend it")  # kept\n'
    )
    assert [(line, word) for line, word in prose_hits(file)] == [(3, "says"), (6, "mend"), (6, "kept")]
    assert [name for _, name in name_hits(file)] == ["found", "is_told"]


if __name__ == "__main__":
    for path in files(*[str(Path(argument).resolve().relative_to(ROOT)) for argument in sys.argv[1:]]):
        for line, word in [*prose_hits(path), *name_hits(path)]:
            print(f"{path}:{line}: {word}")  # noqa: T201
