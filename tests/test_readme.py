"""README and docs: shown code is the code, and every file, command, flag and link that they name exists."""

import re
from functools import cache
from pathlib import Path

import pytest
import typer

from server.cli.app import app

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
CHANGELOG = ROOT / "CHANGELOG.md"  # tells of files and flags that are gone: only its links are checked
MODELS = (ROOT / "docs" / "models.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(r"\.?(?:engine|server|tests|scripts|models|docs|\.ci)/[\w./-]*\w/?|[\w.-]+\.md")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
# Flags of what is not a program of this project, where a page names them.
FOREIGN_FLAGS = {"--model"}
EVERYWHERE = {"--help", "--json", "--install-completion"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    return CODE_BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(page: Path) -> list[str]:
    """Every command that a page shows, in a block or in a line, without its comment."""
    text = page.read_text()
    blocks = [line for kind, block in CODE_BLOCK.findall(text) if kind == "sh" for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in CODE_SPAN.findall(prose(page))]
    return [line.partition("  #")[0].strip() for line in blocks + spans]


@cache
def commands() -> dict[str, set[str]]:
    """The flags of every command of `bramley`; commands of a group by their two words."""
    found: dict[str, set[str]] = {}

    def collect(command, words: tuple[str, ...]) -> None:
        found[" ".join(words)] = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
        if hasattr(command, "list_commands"):
            context = command.make_context("bramley", [], resilient_parsing=True)
            for each in command.list_commands(context):
                collect(command.get_command(context, each), (*words, each))

    collect(typer.main.get_command(app), ())
    found["bench"] = flags_in(ROOT / "scripts" / "benchmark" / "__main__.py")
    return found


def flags_in(program: Path) -> set[str]:
    """The flags that the text of a program of its own names."""
    return set(FLAG.findall(program.read_text()))


def command_of(line: str) -> tuple[str, str] | None:
    """The command of a line of shell, and the rest of it; None for a line that is none of ours."""
    words = line.split()
    if not words:
        return None
    if words[0] in ("scripts/serve", "scripts/bench"):
        return words[0].removeprefix("scripts/"), " ".join(words[1:])
    if words[0] not in ("bramley", ".venv/bin/bramley") or len(words) < 2:
        return None
    pair = " ".join(words[1:3])
    return (pair, " ".join(words[3:])) if pair in commands() else (words[1], " ".join(words[2:]))


def test_the_readme_can_be_read_in_one_sitting():
    assert len(README.read_text().split()) <= 1500


def test_every_page_says_first_what_it_answers():
    for page in DOCS:
        assert "This page answers:" in page.read_text().split("\n\n")[1], name(page)


def test_the_architecture_that_is_shown_is_the_file():
    assert (ROOT / "engine" / "architectures" / "mistral.py").read_text() in MODELS


def test_the_row_that_is_shown_is_in_the_table():
    row = MODELS.partition('decoder("mistral"')[2].partition("\n")[0]
    assert f'decoder("mistral"{row}' in (ROOT / "scripts" / "fixtures" / "llamas.py").read_text()


def test_the_table_of_families_is_the_folder_of_architectures():
    table = MODELS.partition("## Families")[2].partition("## Formats")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    named = {span for row in rows[1:] for span in CODE_SPAN.findall(row)}
    files = {path.stem for path in (ROOT / "engine" / "architectures").glob("*.py")} - {"__init__"}
    assert named == files


@pytest.mark.parametrize("page", [README, *DOCS], ids=name)
def test_every_file_that_is_named_exists(page):
    named = {path for span in CODE_SPAN.findall(prose(page)) for path in PATH.findall(span) if "://" not in span}
    missing = [path for path in sorted(named) if not (ROOT / path).exists() and not is_placeholder(path)]
    assert not missing


def is_placeholder(path: str) -> bool:
    """A path that stands for many, or for a file of the reader's own."""
    return path == "engine/architectures/"


@pytest.mark.parametrize("page", [README, CHANGELOG, *DOCS], ids=name)
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [README, *DOCS], ids=name)
def test_every_command_that_is_shown_exists_with_its_flags(page):
    for line in shell_lines(page):
        command = command_of(line)
        if command is None:
            continue
        word, rest = command
        if word.startswith("-"):
            assert word in commands()[""], line
            continue
        assert word in commands(), line
        assert set(FLAG.findall(rest)) <= commands()[word], line


@pytest.mark.parametrize("page", [README, *DOCS], ids=name)
def test_every_script_that_is_shown_has_its_flags(page):
    for line in shell_lines(page):
        path = ROOT / (line.split() or [""])[0]
        if line.startswith("scripts/") and path.is_file() and path.name not in ("serve", "bench"):
            assert set(FLAG.findall(line)) <= flags_in(path), line


@pytest.mark.parametrize("page", [README, *DOCS], ids=name)
def test_every_flag_that_is_named_belongs_to_a_command(page):
    known = {flag for flags in commands().values() for flag in flags} | EVERYWHERE
    named = {flag for span in CODE_SPAN.findall(prose(page)) for flag in FLAG.findall(span)}
    assert named <= known | FOREIGN_FLAGS | script_flags()


def script_flags() -> set[str]:
    """Flags of scripts that are programs of their own."""
    scripts = [path for path in (ROOT / "scripts").rglob("*") if path.is_file() and path.suffix in ("", ".py")]
    return {flag for path in scripts for flag in flags_in(path)}


def test_what_is_to_be_changed_is_in_the_file_that_the_table_names():
    table = ARCHITECTURE.partition("## Where to change X")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")][2:]
    for row in rows:
        path, *names = CODE_SPAN.findall(row.partition(";")[0])
        if names:
            text = (ROOT / path).read_text()
            assert all(re.search(rf"\b{each}\b", text) for each in names), row


def test_the_walk_of_a_request_passes_at_most_eight_files_on_the_first_screen():
    first_screen = "\n".join(ARCHITECTURE.splitlines()[:32])
    walk = re.findall(r"^\| \d+ \| `([\w/.]+)` \|", ARCHITECTURE, re.MULTILINE)
    assert 1 <= len(walk) <= 8
    assert all(f"`{path}`" in first_screen for path in walk)


@pytest.mark.parametrize("tree", ["server", "engine"])
def test_the_table_of_rooms_is_the_tree(tree):
    table = ARCHITECTURE.partition(f"## Rooms of `{tree}/`")[2].partition("\n## ")[0]
    cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    named = {span.rstrip("/") for span in CODE_SPAN.findall(cells)} - {tree}
    folders = {each.name for each in (ROOT / tree).iterdir() if each.is_dir() and each.name != "__pycache__"}
    assert folders <= named
    assert all((ROOT / tree / each).exists() for each in named)
