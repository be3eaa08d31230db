"""Run by clients.sh: what applications do with the two official packages. Says what the model did with a free choice of
tools, and fails only where the protocol does: a small model need not be clever."""
import json
import sys

import anthropic
import openai

url, key = sys.argv[1:]
oai = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)
ant = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)
model = oai.models.list().data[0].id
user = [{"role": "user", "content": "What is the capital of France?"}]
schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
          "required": ["city", "large"], "additionalProperties": False}
parameters = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
              "required": ["city"], "additionalProperties": False}
tool = {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": parameters}}
greedy = {"temperature": 0}  # newer packages have no such argument
a_tool = {"name": "weather", "description": "Weather of a city", "input_schema": parameters}


def openai_chat():
    r = oai.chat.completions.create(model=model, messages=user, max_tokens=200, temperature=0)
    assert r.choices[0].finish_reason in ("stop", "length") and r.usage.completion_tokens > 0
    parts, usage = [], None
    for chunk in oai.chat.completions.create(model=model, messages=user, max_tokens=200, temperature=0, stream=True,
                                             stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        parts += [c.delta.content or "" for c in chunk.choices]
    assert "".join(parts) == (r.choices[0].message.content or ""), (parts, r)
    assert usage.completion_tokens == r.usage.completion_tokens
    return r.choices[0].message.content


def openai_logprobs():
    r = oai.chat.completions.create(model=model, messages=user, max_tokens=5, logprobs=True, top_logprobs=3)
    assert len(r.choices[0].logprobs.content) == 5 and len(r.choices[0].logprobs.content[0].top_logprobs) == 3


def openai_structured():
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    r = oai.chat.completions.create(model=model, messages=user, max_tokens=500, response_format=form,
                                    extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    o = json.loads(r.choices[0].message.content)
    assert set(o) == {"city", "large"}, o
    return o


def openai_tools():
    r = oai.chat.completions.create(model=model, messages=user, max_tokens=300, tools=[tool], tool_choice="required",
                                    temperature=0)
    m = r.choices[0].message
    assert r.choices[0].finish_reason == "tool_calls" and m.tool_calls[0].function.name == "weather", r
    assert json.loads(m.tool_calls[0].function.arguments)["city"] in ("Paris", "Oslo")
    with oai.chat.completions.stream(model=model, messages=user, max_tokens=300, tools=[tool], temperature=0,
                                     tool_choice="required") as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == m.tool_calls[0].function.arguments
    follow = user + [m.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": m.tool_calls[0].id,
                                                       "content": "12 degrees, rain"}]
    r = oai.chat.completions.create(model=model, messages=follow, tools=[tool], max_tokens=200, temperature=0)
    return r.choices[0].message.content


def openai_completions_responses():
    r = oai.completions.create(model=model, prompt="Once upon a time", max_tokens=10)
    assert r.usage.completion_tokens <= 10 and r.choices[0].text
    r = oai.responses.create(model=model, input="Hello", max_output_tokens=100, temperature=0)
    text = r.output_text
    with oai.responses.stream(model=model, input="Hello", max_output_tokens=100, temperature=0) as stream:
        kinds = [e.type for e in stream]
        final = stream.get_final_response()
    assert final.output_text == text and kinds[0] == "response.created", (final, text)
    return text


def openai_errors():
    for call, kind in ((lambda: oai.chat.completions.create(model=model, messages=user, top_p="x"),
                        openai.BadRequestError),
                       (lambda: oai.models.retrieve("none"), openai.NotFoundError),
                       (lambda: oai.chat.completions.create(model=model, messages=[]), openai.BadRequestError),
                       (lambda: oai.chat.completions.create(model=model, messages=[{"role": "user", "content": "a " * 10**6}]),
                        openai.BadRequestError)):
        try:
            call()
        except kind:
            continue
        raise AssertionError("no " + kind.__name__)
    try:
        oai.chat.completions.create(model=model, messages=user, max_tokens=10**6, timeout=0.01)
    except openai.APITimeoutError:
        return
    raise AssertionError("no time-out")


def anthropic_chat():
    r = ant.messages.create(model=model, messages=user, max_tokens=200, extra_body=greedy)
    with ant.messages.stream(model=model, messages=user, max_tokens=200, extra_body=greedy) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(b.text for b in r.content if b.type == "text") and final.stop_reason == r.stop_reason
    assert ant.messages.count_tokens(model=model, messages=user).input_tokens > 0
    return text


def anthropic_thinking():
    r = ant.messages.create(model=model, messages=user, max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024})
    return [b.type for b in r.content]


def anthropic_tools():
    r = ant.messages.create(model=model, messages=user, max_tokens=300, tools=[a_tool], tool_choice={"type": "any"},
                            extra_body=greedy)
    use = r.content[-1]
    assert r.stop_reason == "tool_use" and use.input["city"] in ("Paris", "Oslo"), r
    with ant.messages.stream(model=model, messages=user, max_tokens=300, tools=[a_tool], tool_choice={"type": "any"},
                             extra_body=greedy) as stream:
        assert stream.get_final_message().content[-1].input == use.input
    follow = user + [{"role": "assistant", "content": r.content},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "12 degrees"}]}]
    r = ant.messages.create(model=model, messages=follow, max_tokens=200, tools=[a_tool], extra_body=greedy)
    return [getattr(b, "text", b.type) for b in r.content]


def anthropic_errors():
    for call, kind in ((lambda: ant.messages.create(model=model, messages=[], max_tokens=1), anthropic.BadRequestError),
                       (lambda: ant.models.retrieve("none"), anthropic.NotFoundError)):
        try:
            call()
        except kind as e:
            assert e.status_code in (400, 404) and e.body["type"] == "error", e.body
            continue
        raise AssertionError("no " + kind.__name__)


failed = 0
for test in (openai_chat, openai_logprobs, openai_structured, openai_tools, openai_completions_responses, openai_errors,
             anthropic_chat, anthropic_thinking, anthropic_tools, anthropic_errors):
    try:
        print("ok  ", test.__name__, "->", repr(test()))
    except Exception as e:
        failed += 1
        print("FAIL", test.__name__, type(e).__name__, str(e)[:600])
sys.exit(failed > 0)
