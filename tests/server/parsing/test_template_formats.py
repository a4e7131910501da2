"""The templates that llama.cpp keeps: the format chosen for each. Needs a copy of its models/templates folder."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from server.parsing.choose import ReplyFormat, choose

# The name of each template's file, the SHA-256 of its text, and how a model with it writes.
KNOWN = json.loads((Path(__file__).parent / "template_formats.json").read_text())
FOLDER = os.environ.get("LLAMA_CPP_TEMPLATES", "")


def described(replies: ReplyFormat) -> dict[str, str | bool | None]:
    return {
        "calls": "harmony" if replies.is_harmony else replies.calls.name,
        "thinking": replies.thinking.begin if replies.thinking else None,
        "in_words": not replies.renders_tools,
    }


@pytest.mark.skipif(not FOLDER, reason="set LLAMA_CPP_TEMPLATES to llama.cpp's models/templates")
def test_every_template_of_llama_cpp_is_recognised():
    found = {}
    for path in sorted(Path(FOLDER).glob("*.jinja")):
        text = path.read_text()
        found[path.stem] = {"sha256": sha256(text.encode()).hexdigest(), **described(choose(text, lambda _: False))}
    assert {name: found.get(name) for name in KNOWN} == KNOWN
    new = found.keys() - KNOWN.keys()
    assert not {name for name in new if found[name]["calls"] == "generic" and not found[name]["in_words"]}


def test_all_known_templates_show_their_form_or_are_told_in_words():
    """The one exception has tokens of its own in its vocabulary, which tell."""
    generic = {name for name, each in KNOWN.items() if each["calls"] == "generic" and not each["in_words"]}
    assert generic == {"LFM2.5-Instruct"}
