"""The tokens that a tokenizer.json, or the settings beside it, add to a vocabulary. Knows the library's file format."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken as SubwordToken
from tokenizers import Tokenizer as Subwords

from engine.checkpoint.json_object import parse_object, shown
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.text.settings import AddedToken, Roles, TokenizerSettings

FILE = "tokenizer.json"
_OWN_LIST = re.compile(r'"added_tokens"\s*:\s*(?=\[)')


def read_subwords(text: str, settings: TokenizerSettings) -> Subwords:
    """The tokenizer that tokenizer.json describes, in which every added token has the id that the files state.

    Raises CheckpointCorrupt, and CheckpointUnsupported for ids that this kind of vocabulary cannot have.
    """
    subwords = _parsed(text)
    moved = {token: token_id for token, token_id in _own_ids(text) if subwords.token_to_id(token) != token_id}
    moved |= {
        token.text: token_id
        for token_id, token in settings.added.items()
        if subwords.token_to_id(token.text) is None and subwords.id_to_token(token_id) is None
    }
    return subwords if not moved else _parsed(_with_ids(text, moved))


def mark_special(subwords: Subwords, settings: TokenizerSettings, roles: Roles, num_rows: int | None) -> None:
    """Have the tokens found in a text that the settings describe, and those with a role; those it has stay.

    num_rows: the tokens that the model knows; a special token without an id is not added behind them
    """
    described = {token.text: token for _, token in sorted(settings.added.items())}
    for role, text in roles.items():
        if text:
            described.setdefault(text, settings.described(text, lstrip=role == "mask_token" and text == "<mask>"))
    unnumbered = [text for text in settings.special_texts() if text not in described]
    described |= {text: settings.described(text) for text in unnumbered}
    vocabulary = subwords.get_vocab(with_added_tokens=True)
    known = {token.content for token in subwords.get_added_tokens_decoder().values() if token.special}
    new = set(unnumbered_within(unnumbered, vocabulary, num_rows))
    wanted = [token for token in described.values() if token.text not in known]
    _add(subwords, [token for token in wanted if token.text in vocabulary or token.text in new])


def unnumbered_within(texts: Iterable[str], vocabulary: Mapping[str, int], num_rows: int | None) -> list[str]:
    """The texts that the vocabulary lacks and that the model has room for behind it.

    A configuration that knows fewer tokens than the vocabulary itself says nothing of the room.
    """
    lacking = list(dict.fromkeys(text for text in texts if text not in vocabulary))
    size = max(vocabulary.values(), default=-1) + 1
    return lacking if num_rows is None or num_rows < size else lacking[: num_rows - size]


def _add(subwords: Subwords, tokens: Iterable[AddedToken]) -> None:
    """Add all at once: the library sorts its whole list anew with every call."""
    special: list[SubwordToken] = []
    words: list[SubwordToken] = []
    for token in tokens:
        strip = {"lstrip": token.lstrip, "rstrip": token.rstrip}
        added = SubwordToken(token.text, special=token.special, normalized=not token.special, **strip)
        (special if token.special else words).append(added)
    subwords.add_special_tokens(special)
    subwords.add_tokens(words)


def _parsed(text: str) -> Subwords:
    try:
        subwords = Subwords.from_str(text)
    except Exception as error:
        if not isinstance(parse_object(text.encode("utf-8", "replace"), FILE).get("model"), dict):
            raise CheckpointCorrupt(FILE, "it has no model object") from error
        reason = str(error)[:80]
        raise CheckpointUnsupported(FILE, reason, "what release 0.23 of the library `tokenizers` reads") from error
    subwords.no_truncation()
    subwords.no_padding()
    return subwords


def _own_ids(text: str) -> list[tuple[str, int]]:
    """The file's own added tokens with their ids, without reading the rest of a large file."""
    match = _OWN_LIST.search(text)
    listed = json.JSONDecoder().raw_decode(text, match.end())[0] if match else []
    return [(token["content"], token["id"]) for token in listed]


def _with_ids(text: str, ids: Mapping[str, int]) -> str:
    """The file with these tokens in its vocabulary: the library numbers anew what it finds nowhere but in its list."""
    file = parse_object(text.encode(), FILE)
    vocabulary: Any = file["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        raise CheckpointUnsupported(FILE, "added tokens whose ids do not follow the vocabulary", "ids in one sequence")
    taken = set(vocabulary.values())
    for token, token_id in ids.items():
        if token in vocabulary:
            continue
        if token_id in taken:
            raise CheckpointCorrupt(FILE, f"it adds {shown(token)} under the id {token_id} of another token")
        taken.add(token_id)
        vocabulary[token] = token_id
    return json.dumps(file, ensure_ascii=False)
