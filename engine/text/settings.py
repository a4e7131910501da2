"""The checkpoint's settings of its tokenizer beside the vocabulary. Knows JSON files; knows no library."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

MAX_TOKENS = 1 << 24
_MAX_FILE_BYTES = 64 << 20
_MAX_TOKEN_CHARACTERS = 4096
_CONFIG, _SPECIAL, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
SENTENCEPIECE_ROLES = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
Roles = dict[str, str | None]
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text before the vocabulary sees it.

    lstrip, rstrip: it takes the white space before or after it along
    leading: found at the beginning of a text only
    special: left out of decoded text, and plain text where special tokens are not parsed
    """

    text: str
    lstrip: bool = False
    rstrip: bool = False
    special: bool = True
    leading: bool = False


class TokenizerSettings:
    """tokenizer_config.json over special_tokens_map.json, and added_tokens.json.

    added: further tokens by id; kind: of tokenizer_class, "Bert" of "BertTokenizerFast"; "" when nothing names one
    Raises CheckpointCorrupt when a file contradicts itself.
    """

    def __init__(self, folder: ModelFolder, config: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        for name in (_SPECIAL, _CONFIG):
            values = folder.json(name, _MAX_FILE_BYTES) if folder.has(name) else {}
            self._values |= {key: value for key, value in values.items() if value is not None}
        # The list in the settings is the newer one: a file beside it is left over.
        self.added = _decoder(self._values.get("added_tokens_decoder", {}))
        if not self.added and folder.has(_ADDED):
            self.added = _listed(folder.json(_ADDED, _MAX_FILE_BYTES))
        if len({token.text for token in self.added.values()}) < len(self.added):
            raise CheckpointCorrupt(_CONFIG, "it adds one token under two ids")
        kind = self._values.get("tokenizer_class", config.get("tokenizer_class"))
        self.kind = kind.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(kind, str) else ""

    def get(self, key: str) -> Any:
        """A value as it is; None when it is absent or null."""
        return self._values.get(key)

    def flag(self, key: str, *, default: bool | None) -> bool | None:
        """A switch; the default when it is absent or null."""
        value = self._values.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise CheckpointUnsupported(key, value, "true or false")
        return value

    def count(self, key: str, default: int, *, least: int = 0, most: int) -> int:
        """A whole number within these bounds."""
        value = self._values.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise CheckpointUnsupported(key, value, f"a whole number from {least} to {most}")
        return value

    def word(self, key: str, default: str, choices: Iterable[str]) -> str:
        """One of the choices; the default when it is absent or null."""
        value = self._values.get(key, default)
        if value not in choices:
            raise CheckpointUnsupported(key, shown(value), ", ".join(choices))
        return str(value)

    def named(self, defaults: Mapping[str, str] = MappingProxyType({})) -> Roles:
        """The texts of the special tokens with a role, by role ("bos_token", ...)."""
        texts = {name: token_text(self._values.get(name)) for name in NAMES}
        return {name: defaults.get(name) if text is None else text for name, text in texts.items()}

    def special_texts(self) -> list[str]:
        """The special tokens without a role."""
        found: list[str | None] = []
        for key in ("additional_special_tokens", "extra_special_tokens"):
            value = self._values.get(key)
            each = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            found += map(token_text, each)
        return [text for text in found if text]

    def described(self, text: str, **standard: bool) -> AddedToken:
        """The token as the files describe it, else with the standard properties."""
        for token in self.added.values():
            if token.text == text:
                return token
        for name in NAMES:
            value = self._values.get(name)
            if isinstance(value, dict) and value.get("content") == text:
                return _token(value)
        return AddedToken(text, **standard)


def token_text(value: Any) -> str | None:
    """A token's text, whether it is written as a string or as an object."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def checked_id(value: Any, file: str) -> int:
    """A token id read from a file. Raises CheckpointCorrupt for what can be none."""
    if type(value) is not int or not 0 <= value < MAX_TOKENS:
        raise CheckpointCorrupt(file, f"it gives a token the id {shown(value)}")
    return value


def _listed(added: Mapping[str, Any]) -> dict[int, AddedToken]:
    """added_tokens.json: ids by text. Tokens with brackets of their own are special, others are words."""
    tokens = {
        checked_id(value, _ADDED): AddedToken(_text(text, _ADDED), special=_bracketed(text))
        for text, value in added.items()
    }
    if len(tokens) < len(added):
        raise CheckpointCorrupt(_ADDED, "it gives two tokens one id")
    return tokens


def _decoder(added: Any) -> dict[int, AddedToken]:
    """tokenizer_config.json's added_tokens_decoder: descriptions by id."""
    if not isinstance(added, dict):
        raise CheckpointCorrupt(_CONFIG, "added_tokens_decoder is not an object")
    return {_id_key(key): _token(value) for key, value in added.items()}


def _id_key(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise CheckpointCorrupt(_CONFIG, f"added_tokens_decoder has the key {shown(key)}, which is no id")
    return checked_id(int(key), _CONFIG)


def _token(value: Any) -> AddedToken:
    text = _text(token_text(value), _CONFIG)
    if not isinstance(value, dict):
        return AddedToken(text)
    strip = {name: value.get(name) is True for name in ("lstrip", "rstrip")}
    return AddedToken(text, special=value.get("special", True) is True, **strip)


def _text(text: str | None, file: str) -> str:
    if not text or len(text) > _MAX_TOKEN_CHARACTERS:
        raise CheckpointCorrupt(file, f"it adds a token spelled {shown(text)}")
    return text


def _bracketed(text: str) -> bool:
    return (text[0], text[-1]) in {("<", ">"), ("[", "]")}
