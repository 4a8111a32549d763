"""What programs do with the openai package, against a gateway with simulated model servers behind it.

    python openai_client.py http://127.0.0.1:8080

Prints a line for each scenario and ends with status 1 if one of them found what its user would not expect.
"""

import http.client
import json
import sys
import traceback
import urllib.parse

import openai

MODEL = "sim"
GATEWAY = sys.argv[1].rstrip("/")
client = openai.OpenAI(base_url=GATEWAY + "/v1", api_key="none", max_retries=0, timeout=20)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


def chat():
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Who follows the shark? 鮫 \u2028 \U0001f988"}], max_tokens=6
    )
    choice = answer.choices[0]
    assert answer.model == MODEL and choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length"), choice
    assert answer.usage.completion_tokens == 6, answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6, answer.usage


def stream_with_usage():
    messages = [
        {"role": "system", "content": "Answer briefly. " * 100},
        {"role": "user", "content": [{"type": "text", "text": "Who follows the shark?"}]},
    ]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8)
    text, usage, finish, chunks = "", None, None, 0
    for chunk in client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
    ):
        chunks += 1
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == first.choices[0].message.content, (text, first)
    assert finish == first.choices[0].finish_reason, finish
    assert chunks >= 9, chunks
    assert usage.completion_tokens == 8 and usage.prompt_tokens == first.usage.prompt_tokens, usage
    # The same pod serves the same beginning again, and it has it cached.
    assert usage.prompt_tokens_details.cached_tokens > 300, usage


def stream_closed_early():
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Tell me all."}], max_tokens=400, stream=True,
        extra_body={"ignore_eos": True},
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    stream.close()


def tool_call():
    messages = [{"role": "user", "content": "Use get_weather for Lisbon."}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather", call
    assert set(json.loads(call.function.arguments)) == {"city", "days"}, call
    # And the second half: the result goes back.
    messages += [
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=5)
    assert answer.choices[0].message.content, answer


def tool_call_streamed():
    name, arguments, finish = "", "", None
    for chunk in client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Weather?"}], tools=[WEATHER], tool_choice="required", stream=True
    ):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "get_weather" and finish == "tool_calls", (name, finish)
    assert set(json.loads(arguments)) == {"city", "days"}, arguments


def completions():
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=4)
    assert answer.choices[0].text and answer.usage.completion_tokens == 4, answer
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=4, stream=True)
        if chunk.choices
    )
    assert text == answer.choices[0].text, text


def models():
    assert [m.id for m in client.models.list()] == [MODEL]


def unknown_model():
    """The engine's error comes through as it is."""
    try:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hello"}])
    except openai.NotFoundError as e:
        assert e.status_code == 404 and e.body["type"] == "NotFoundError" and e.body["param"] == "model", e.body
        assert "The model `nope` does not exist" in e.body["message"], e.body
    else:
        raise AssertionError("no error")


def malformed():
    """The picker's own error has the form that the package knows."""
    url = urllib.parse.urlsplit(GATEWAY)
    raw = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    raw.request("POST", "/v1/chat/completions", b'{"model": "sim", "messages": [}', {"Content-Type": "application/json"})
    answer = raw.getresponse()
    error = json.loads(answer.read())["error"]
    assert answer.status == 400 and answer.headers["Content-Type"].startswith("application/json"), answer.headers.items()
    assert error["type"] == "invalid_request_error" and error["code"] == "invalid_json" and "byte 30" in error["message"], error
    try:
        client.post("/chat/completions", content=b'{"model": ', cast_to=object)
    except openai.BadRequestError as e:
        assert e.code == "invalid_json" and e.type == "invalid_request_error", e.body
    else:
        raise AssertionError("no error")


failed = False
for scenario in (
    chat, stream_with_usage, stream_closed_early, tool_call, tool_call_streamed, completions, models, unknown_model, malformed,
):
    try:
        scenario()
        print("ok", scenario.__name__)
    except Exception:
        failed = True
        print("FAILED", scenario.__name__)
        traceback.print_exc(file=sys.stdout)
sys.exit(failed)
