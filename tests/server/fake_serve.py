"""The real server over fake workers: `fake_serve.py FOLDER [FOLDER...]`, settings from the environment.

Text is bytes: a token id below 256 is that byte, 256 ends a text, 257 begins one. The template passes on the last
message's content; the content "show" makes the model say what the template was given. A file load.json in the model's
folder says more: `template`, the template's source; `markers`, further special tokens with the ids from 258 on; and
`whole`, which has the template pass on all messages and tools.
"""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from engine.checkpoint.generation_defaults import GenerationDefaults
from engine.embedding.sentence_settings import SentenceSettings
from engine.errors import TemplateFailed
from engine.text.tokenizer import SpecialTokens, Tokenizer
from server.models.text import ModelText
from server.parsing.choose import choose
from server.serve import serve
from server.settings import Settings
from server.store.stored_model import StoredModel

SPECIAL = SpecialTokens(ids=frozenset({256, 257}), bos_id=257, eos_ids=(256,))


class Bytes:
    """A vocabulary of 256 bytes and two special tokens."""

    joins_bytes = True
    added: dict = {}  # noqa: RUF012  # of no instance

    def __init__(self, markers):
        self.markers = dict(enumerate(markers, 258))
        self.size = 258 + len(markers)

    def encode(self, text, *, add_special_tokens, parse_special):
        ids = [257] * add_special_tokens
        markers = "|".join(map(re.escape, self.markers.values())) if parse_special else ""
        for part in re.split(f"({markers})", text) if markers else [text]:
            ids += [self.token_id(part)] if markers and part in self.markers.values() else list(part.encode())
        return ids

    def decode(self, ids):
        raise NotImplementedError("bytes are joined by the tokenizer")

    def token(self, token_id):
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id):
        special = {256: "</s>", 257: "<s>"} | self.markers
        return special[token_id].encode() if token_id in special else bytes([token_id])

    def token_id(self, token):
        return {"</s>": 256, "<s>": 257, **{text: token_id for token_id, text in self.markers.items()}}.get(token)


class LastMessageTemplate:
    def __init__(self, source, *, whole=False):
        self.sources = (source,)
        self.whole = whole

    def close(self):
        pass

    def render(self, messages, *, tools=None, add_generation_prompt=True, continue_final_message=False, variables=None):
        content = messages[-1]["content"] or ""
        if self.whole:
            return f"messages: {json.dumps(messages)} tools: {json.dumps(tools)}"
        if content == "raise":
            raise TemplateFailed("The template refused these messages.")
        if content != "show":
            return content or ""
        seen = {"messages": messages, "variables": dict(variables or {}), "generate": add_generation_prompt}
        seen |= {"tools": tools} if tools else {}
        return json.dumps({"say": json.dumps({**seen, "continue": continue_final_message})})


def read_text(path: Path) -> ModelText:
    plan = json.loads((path / "load.json").read_text())
    source, vocabulary = plan.get("template", "{{ tools }}"), Bytes(plan.get("markers", ()))
    tokenizer = Tokenizer(vocabulary, replace(SPECIAL, ids=SPECIAL.ids | set(vocabulary.markers)))
    replies = choose(source, lambda text: vocabulary.token_id(text) is not None)
    template = LastMessageTemplate(source, whole=plan.get("whole", False))
    return ModelText(tokenizer, template, GenerationDefaults(), SentenceSettings(), replies)


if __name__ == "__main__":
    command = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
    folders = {Path(folder).name.replace("--", "/"): Path(folder) for folder in sys.argv[1:]}
    models = {
        name: StoredModel(name, folder, 1000, "safetensors", "a test", 1_800_000_000, aliases=("an-alias",))
        for name, folder in folders.items()
    }
    settings = Settings(models=tuple(models))
    sys.exit(serve(settings, find=models.__getitem__, command=command, read_text=read_text))
