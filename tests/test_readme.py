"""What the README shows of the code is the code."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_architecture_that_is_shown_is_the_file():
    assert (ROOT / "engine" / "architectures" / "mistral.py").read_text() in README


def test_the_row_that_is_shown_is_in_the_table():
    row = README.partition('decoder("mistral"')[2].partition("\n")[0]
    assert f'decoder("mistral"{row}' in (ROOT / "scripts" / "fixtures" / "llamas.py").read_text()
