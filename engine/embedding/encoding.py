"""The values that enter and leave an embedder: texts as token ids, vectors or scores. Imports no mlx."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenInput:
    """One text, or a pair of texts that are read together.

    types: per token 0 or 1, the text of a pair it belongs to; () is 0 for all
    prompt_length: tokens at the beginning that are a prompt's, which some models leave out of their pooling
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()
    prompt_length: int = 0


@dataclass(frozen=True, slots=True)
class EncodingRequest:
    """Texts of which vectors or scores are wanted.

    request_id: unique among the embedder's live requests
    param: the field that errors name
    dimensions: size to which a Matryoshka model's vectors are cut (arXiv:2205.13147)
    normalize: vectors of length 1; None is as the checkpoint says
    raw_scores: a classifier's logits as they are
    """

    request_id: str
    inputs: tuple[TokenInput, ...]
    param: str = "input"
    dimensions: int | None = None
    normalize: bool | None = None
    raw_scores: bool = False


@dataclass(frozen=True, slots=True)
class EncodingOutput:
    """The result of a batch for one input: values, or an error.

    index: of the input in its request
    values: float32 in little-endian order: a vector, or a score per label
    error: a sentence for the client; error_kind: the error class's name
    """

    request_id: str
    index: int
    values: bytes = b""
    error: str | None = None
    error_kind: str = ""
