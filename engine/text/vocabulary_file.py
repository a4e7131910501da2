"""Read vocab.json, vocab.txt and merges.txt into Python values, within bounds. Knows no library."""

from engine.checkpoint.folder import ModelFolder, open_file
from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.text.settings import MAX_TOKENS, checked_id

_MAX_FILE_BYTES = 64 << 20
_MAX_TOKEN_CHARACTERS = 4096


def read_vocabulary(folder: ModelFolder, name: str) -> dict[str, int]:
    """Ids by token, from a JSON object. Raises CheckpointNotFound and CheckpointCorrupt."""
    vocabulary = folder.json(name, _MAX_FILE_BYTES)
    if not vocabulary:
        raise CheckpointCorrupt(name, "it has no tokens")
    for token, token_id in vocabulary.items():
        _check_length(token, name)
        checked_id(token_id, name)
    if len(set(vocabulary.values())) < len(vocabulary):
        raise CheckpointCorrupt(name, "it gives two tokens one id")
    return vocabulary


def read_lines(folder: ModelFolder, name: str) -> list[str]:
    """The lines of a text file, without their ends. Raises CheckpointNotFound and CheckpointCorrupt."""
    lines = read_text(folder, name, _MAX_FILE_BYTES).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines or len(lines) >= MAX_TOKENS:
        raise CheckpointCorrupt(name, f"it has {len(lines)} lines")
    for line in lines:
        _check_length(line, name)
    return lines


def read_merges(folder: ModelFolder, name: str) -> list[tuple[str, str]]:
    """Pairs of tokens that become one, the first ones first; a first line with the version is left out."""
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(read_lines(folder, name), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise CheckpointCorrupt(name, f"line {number} is {shown(line)}, not two tokens")
        merges.append((left, right))
    return merges


def read_text(folder: ModelFolder, name: str, max_bytes: int) -> str:
    """A text file. Raises CheckpointNotFound, and CheckpointCorrupt when it is larger or not UTF-8."""
    with open_file(folder.file(name)) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointUnsupported(f"size of {name}", f"more than {max_bytes} bytes", "smaller files")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CheckpointCorrupt(name, "it is not UTF-8") from None


def _check_length(token: str, name: str) -> None:
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise CheckpointCorrupt(name, f"it has a token of {len(token)} characters")
