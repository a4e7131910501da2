"""Requests of other APIs as chat requests, which are what the prompts of all conversations are made from."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from server.api.chat.schemas import ChatCompletionRequest
from server.errors import InvalidRequest
from server.wire.sampling import SamplingFields

MAX_ITEMS = 16384


def as_chat(
    given: SamplingFields, param: str, fields: dict[str, Any], names: Mapping[str, str] | None = None
) -> ChatCompletionRequest:
    """A chat request with the sampling of another one. Raises InvalidRequest, which names `param`, if it is none.

    fields: as a client of the chat API would send them; names: what errors call them where the client does not
    """
    shared = {name: getattr(given, name) for name in SamplingFields.model_fields if name in given.model_fields_set}
    shared.pop("stream_options", None)
    try:
        request = ChatCompletionRequest.model_validate({**shared, **fields})
    except InvalidRequest as error:
        own = (names or {}).get(error.param or "")
        if own is not None:
            error.args, error.param = (str(error).replace(str(error.param), own),), own
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        own = (names or {}).get(str(first["loc"][0])) if first["loc"] else None
        if own is not None:
            raise InvalidRequest(f"{own}: {first['msg']}.", param=own) from None
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(
            f"{param} cannot be read as a conversation: {place}: {first['msg']}.", param=param
        ) from None
    request.call_fields(names or {})
    return request


def text_of(content: Any, param: str, *, images: str = "") -> str:
    """The text of a string or a list of parts. Raises InvalidRequest for parts of other kinds.

    images: what stands for a part that is no text; "" refuses it
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest(f"{param} must be a string or a list of parts.", param=param)
    return "".join(_text_of_part(part, f"{param}[{index}]", images) for index, part in enumerate(content))


def _text_of_part(part: Any, param: str, images: str) -> str:
    if not isinstance(part, dict):
        raise InvalidRequest(f"{param} must be an object.", param=param)
    for key in ("text", "refusal"):
        if isinstance(part.get(key), str):
            return str(part[key])
    if images:
        return images
    raise InvalidRequest(f"{param} is of a type that this model cannot read: it reads text.", param=param)
