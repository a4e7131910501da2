"""Every route through the official client's own helpers; a program, so that any release of the client can be loaded.

Usage: python sdk_routes.py WRITER READER BUSY, base URLs: of a scripted model, of one that makes vectors, and of a
scripted model that takes one request at a time. Prints the client's version when everything held.
"""

import asyncio
import json
import sys

import openai
import pydantic

MODEL = "org/fake"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
FLAT_TOOL = {"type": "function", **FUNCTION, "strict": False}
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
USAGE = {"include_usage": True}


class Place(pydantic.BaseModel):
    city: str


def main(writer: str, reader: str, busy: str) -> None:
    client = openai.OpenAI(base_url=writer, api_key="unused", max_retries=0)
    chat_holds(client)
    completions_hold(client)
    responses_hold(client)
    decisions_hold(client)
    models_and_errors_hold(client)
    embeddings_hold(openai.OpenAI(base_url=reader, api_key="unused", max_retries=0))
    retries_hold(busy)
    asyncio.run(async_holds(writer))
    sys.stdout.write(openai.__version__)


def script(text: str, **keys: object) -> str:
    return json.dumps({"say": text, **keys})


def user(text: str, **keys: object) -> dict:
    return {"role": "user", "content": script(text, **keys)}


def weather(city: str) -> str:
    return script(f"It is sunny in {city}.")


def chat_holds(client: openai.OpenAI) -> None:
    messages = [user(f"<think>hm</think>I look.{CALL}")]
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=[TOOL], stream_options=USAGE) as stream:
        kinds = {event.type for event in stream}
        reply = stream.get_final_completion()
    assert {"content.delta", "content.done", "tool_calls.function.arguments.done"} <= kinds
    whole = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    assert reply.usage == whole.usage
    message = reply.choices[0].message
    assert message.content == whole.choices[0].message.content == "I look."
    assert reply.choices[0].finish_reason == "tool_calls"
    # A tool loop, in which the answer is sent back as it came.
    call = message.tool_calls[0]
    result = weather(**json.loads(call.function.arguments))
    messages += [whole.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": result}]
    last = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    assert last.choices[0].message.content == "It is sunny in Paris."
    parsed = client.chat.completions.parse(model=MODEL, messages=[user('{"city": "Rome"}')], response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Rome")
    several = client.chat.completions.create(model=MODEL, messages=[user("ab")], n=2, logprobs=True, top_logprobs=1)
    assert [choice.message.content for choice in several.choices] == ["ab", "ab"]
    assert [entry.token for entry in several.choices[1].logprobs.content] == ["a", "b"]


def completions_hold(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 50}
    whole = client.completions.create(**request, logprobs=1)
    assert [choice.text for choice in whole.choices] == ["You said: a", "You said: b"]
    texts = ["", ""]
    for chunk in client.completions.create(**request, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def responses_hold(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "input": script(f"<think>hm</think>I look.{CALL}"), "tools": [FLAT_TOOL]}
    with client.responses.stream(**request) as stream:
        events = list(stream)
        first = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    assert first.output_text == "I look."
    result = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": weather("Paris")}
    last = client.responses.create(model=MODEL, previous_response_id=first.id, input=[result])
    assert last.output_text == "It is sunny in Paris."
    history = [{"role": "user", "content": request["input"]}, *first.output, result]
    assert client.responses.create(model=MODEL, input=history, store=False).output_text == last.output_text
    assert client.responses.retrieve(last.id).output_text == last.output_text
    assert [item.type for item in client.responses.input_items.list(last.id)] == ["function_call_output"]
    client.responses.delete(last.id)
    failing(openai.NotFoundError, lambda: client.responses.retrieve(last.id))
    parsed = client.responses.parse(model=MODEL, input=script('{"city": "Rome"}'), text_format=Place)
    assert parsed.output_parsed == Place(city="Rome")
    with client.responses.stream(model=MODEL, input=script('{"city": "Rome"}'), text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(city="Rome")
    tools = [openai.pydantic_function_tool(Place, name="get_weather")]
    forced = {"tools": tools, "tool_choice": "required"}
    completion = client.chat.completions.parse(model=MODEL, messages=[user(CALL)], **forced)
    assert completion.choices[0].message.tool_calls[0].function.parsed_arguments == Place(city="Paris")


def decisions_hold(client: openai.OpenAI) -> None:
    if not hasattr(client, "decisions"):  # older releases
        return
    question = {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": True}]}
    answer = client.decisions.create(model=MODEL, input="x", questions=[question]).answers[0]
    assert answer.choice is True
    assert round(sum(each.probability for each in answer.probabilities), 6) == 1


def models_and_errors_hold(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    for path in (client.chat.completions.create, client.completions.create, client.responses.create):
        words = {"messages": [user("x")]} if path == client.chat.completions.create else {"prompt": "x"}
        words = {"input": "x"} if path == client.responses.create else words
        error = failing(openai.NotFoundError, path, model="gone", **words)
        assert (error.code, error.param) == ("model_not_found", "model")
        assert failing(openai.BadRequestError, path, model=MODEL, **words, temperature=9).param == "temperature"
    stream = client.chat.completions.create(model=MODEL, messages=[user("text", fail_after=2)], stream=True)
    assert failing(openai.APIError, lambda: list(stream)).code == "internal_error"


def embeddings_hold(client: openai.OpenAI) -> None:
    request = {"model": "tiny", "input": ["w11 w12", "w13"]}
    packed = client.embeddings.create(**request)  # the client asks for base64 by itself
    plain = client.embeddings.create(**request, encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding, strict=True)) < 1e-6


def retries_hold(busy: str) -> None:
    client = openai.OpenAI(base_url=busy, api_key="unused", max_retries=5)
    with client.chat.completions.create(model=MODEL, messages=[user("abcd", delay_seconds=0.1)], stream=True):
        reply = client.chat.completions.with_raw_response.create(model=MODEL, messages=[user("x")])
    assert reply.retries_taken >= 1
    assert reply.parse().choices[0].message.content == "x"
    request = {"model": MODEL, "messages": [user("x", fail_after=0)]}
    failing(openai.InternalServerError, client.with_options(max_retries=0).chat.completions.create, **request)


async def async_holds(writer: str) -> None:
    async with openai.AsyncOpenAI(base_url=writer, api_key="unused", max_retries=0) as client:
        async with client.responses.stream(model=MODEL, input=script("ab")) as stream:
            response = await stream.get_final_response()
        async with client.chat.completions.stream(model=MODEL, messages=[user("ab")]) as chat:
            completion = await chat.get_final_completion()
    assert response.output_text == completion.choices[0].message.content == "ab"


def failing(kind: type, call: object, **request: object) -> Exception:
    """The error of this kind that a call ends with."""
    try:
        call(**request)
    except kind as error:
        return error
    raise AssertionError("it did not fail")


if __name__ == "__main__":
    main(*sys.argv[1:])
