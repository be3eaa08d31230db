"""The official anthropic package for Python: `anthropic_package.py URL KEY [TEST…]`, run by clients.sh with the demo pair."""
import asyncio
import json
import typing

import anthropic
import pydantic

from common import key, raises, run, url, wait_busy, wait_idle

client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)
MODEL = "claude-any"  # applications name models of their own; any is accepted
USER = [{"role": "user", "content": "What is the capital of France?"}]
COLD = {"extra_body": {"temperature": 0}}
GREEDY = {"model": MODEL, "messages": USER, "max_tokens": 200, **COLD}
ENDLESS = {"model": MODEL, "messages": USER, "max_tokens": 3500, "extra_body": {"ignore_eos": True}}
TIMER = {"name": "start_timer", "description": "Starts a timer for some minutes.", "input_schema": {
    "type": "object", "properties": {"duration": {"type": "integer"}}, "required": ["duration"]}}
ASK_TIMER = [{"role": "user", "content": "Set a timer for 6 minutes."}]


class City(pydantic.BaseModel):
    city: typing.Literal["Paris", "Oslo"]
    large: bool


def text_of(message):
    return "".join(b.text for b in message.content if b.type == "text")


def test_models():
    found = client.models.list().data[0]
    assert found.type == "model" and client.models.retrieve(found.id).id == found.id


def test_messages():
    r = client.messages.create(**GREEDY)
    assert (r.type, r.role, r.stop_reason, r.model) == ("message", "assistant", "end_turn", MODEL), r
    with client.messages.stream(**GREEDY) as s:
        text = "".join(s.text_stream)
        final = s.get_final_message()
    assert text == text_of(r) and final.stop_reason == r.stop_reason and final.usage.output_tokens == r.usage.output_tokens
    assert [e.type for e in client.messages.create(**GREEDY, stream=True)][-1] == "message_stop"
    total = r.usage.input_tokens + r.usage.cache_read_input_tokens
    assert client.messages.count_tokens(model=MODEL, messages=USER).input_tokens == total
    return text


def test_system_and_stop():
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    r = client.messages.create(**GREEDY, system=system)
    assert r.stop_reason == "end_turn"
    whole = text_of(client.messages.create(**GREEDY))
    word = whole.split()[-1]
    r = client.messages.create(**GREEDY, stop_sequences=[word])
    assert (r.stop_reason, r.stop_sequence, text_of(r)) == ("stop_sequence", word, whole[:whole.index(word)]), r
    r = client.messages.create(**{**GREEDY, "max_tokens": 2})
    assert r.stop_reason == "max_tokens" and r.usage.output_tokens == 2, r


def test_thinking():
    ask = {**GREEDY, "max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    r = client.messages.create(**ask)
    assert [b.type for b in r.content] == ["thinking", "text"] and r.content[0].thinking, r
    with client.messages.stream(**ask) as s:
        kinds = {e.delta.type for e in s if e.type == "content_block_delta"}
        final = s.get_final_message()
    assert kinds == {"thinking_delta", "signature_delta", "text_delta"}, kinds
    assert final.content[0].thinking == r.content[0].thinking and text_of(final) == text_of(r)
    follow = USER + [{"role": "assistant", "content": r.content}, *USER]
    assert text_of(client.messages.create(**{**ask, "messages": follow}))
    return r.content[0].thinking


def tool_round(stream, **more):
    def ask(messages):
        body = {**GREEDY, "messages": messages, "tools": [TIMER], **more}
        if not stream:
            return client.messages.create(**body)
        with client.messages.stream(**body) as s:
            return s.get_final_message()

    r = ask(ASK_TIMER)
    use = r.content[-1]
    assert r.stop_reason == "tool_use" and (use.type, use.name, use.input) == ("tool_use", "start_timer", {"duration": 6}), r
    r = ask(ASK_TIMER + [{"role": "assistant", "content": r.content}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "ok"}]}]}])
    assert r.stop_reason == "end_turn" and "6" in text_of(r), r
    assert r.usage.cache_read_input_tokens > 0.5 * r.usage.input_tokens, r.usage
    return text_of(r)


def test_tools():
    texts = [tool_round(stream) for stream in (False, True)]
    assert texts[0] == texts[1]
    return texts[0]


def test_tools_with_thinking():
    return tool_round(True, thinking={"type": "enabled", "budget_tokens": 1024})


def test_tool_choice():
    for choice in ({"type": "any"}, {"type": "tool", "name": "start_timer", "disable_parallel_tool_use": True}):
        r = client.messages.create(**GREEDY, tools=[TIMER], tool_choice=choice)
        assert r.stop_reason == "tool_use" and isinstance(r.content[-1].input["duration"], int), r
        with client.messages.stream(**GREEDY, tools=[TIMER], tool_choice=choice) as s:
            assert s.get_final_message().content[-1].input == r.content[-1].input
    r = client.messages.create(**{**GREEDY, "messages": ASK_TIMER}, tools=[TIMER], tool_choice={"type": "none"})
    assert all(b.type == "text" for b in r.content), r


def test_tool_runner():
    """The package calls the function by itself and goes on until the model has answered."""
    given = []

    @anthropic.beta_tool
    def start_timer(duration: int) -> str:
        """Starts a timer for some minutes."""
        given.append(duration)
        return "ok"

    runner = client.beta.messages.tool_runner(**{**GREEDY, "messages": ASK_TIMER}, tools=[start_timer])
    final = runner.until_done()
    assert given == [6] and final.stop_reason == "end_turn", (given, final)
    return text_of(final)


def test_structured():
    r = client.messages.parse(**{**GREEDY, "max_tokens": 1000}, output_format=City)
    assert isinstance(r.parsed_output, City), r
    form = {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}},
                                                         "required": ["ok"], "additionalProperties": False}}}
    o = json.loads(text_of(client.messages.create(**GREEDY, output_config=form)))
    assert isinstance(o["ok"], bool)


def test_errors():
    e = raises(anthropic.BadRequestError, 400, lambda: client.messages.create(model=MODEL, messages=[], max_tokens=1))
    assert e.body["type"] == "error" and e.body["error"]["type"] == "invalid_request_error", e.body
    assert e.request_id and e.body["request_id"] == e.request_id, (e.request_id, e.body)
    long = {**GREEDY, "messages": [{"role": "user", "content": "a " * 10**6}]}
    raises(anthropic.BadRequestError, 400, lambda: client.messages.create(**long), "prompt is too long: ")
    raises(anthropic.BadRequestError, 400, lambda: list(client.messages.create(**long, stream=True)), "prompt is too long: ")
    raises(anthropic.NotFoundError, 404, lambda: client.models.retrieve("none"))
    raises(anthropic.NotFoundError, 404, lambda: client.post("/v1/messages/none", body={}, cast_to=object))
    stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
    raises(anthropic.AuthenticationError, 401, lambda: stranger.messages.create(**GREEDY), "Invalid API Key")
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    raises(anthropic.BadRequestError, 400,
           lambda: client.messages.create(**{**GREEDY, "messages": [{"role": "user", "content": [picture]}]}), "image")


def test_timeout():
    raises(anthropic.APITimeoutError, None, lambda: client.messages.create(**ENDLESS, timeout=0.05))
    wait_idle()


def test_abort():
    with client.messages.stream(**ENDLESS) as s:
        next(iter(s.text_stream))
        wait_busy(1)
    wait_idle()


def test_too_many():
    """The server of this run lets two wait (--queue-max 2)."""
    async def crowd():
        async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0, timeout=60) as a:
            running = [asyncio.create_task(a.messages.create(**ENDLESS)) for _ in range(2)]
            await asyncio.to_thread(wait_busy, 2)
            ask = {**ENDLESS, "max_tokens": 4}
            got = asyncio.gather(*[a.messages.create(**ask) for _ in range(8)], return_exceptions=True)
            await asyncio.sleep(1)
            for r in running:
                r.cancel()
            return await got

    got = asyncio.run(crowd())
    refused = [e for e in got if isinstance(e, anthropic.RateLimitError)]
    assert len(refused) == 6 and all(e.body["error"]["type"] == "rate_limit_error" for e in refused), got
    assert sum(not isinstance(e, Exception) for e in got) == 2, got
    wait_idle()


def test_async():
    async def many():
        async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=4) as a:
            async def one():
                async with a.messages.stream(**GREEDY) as s:
                    return "".join([t async for t in s.text_stream])
            return await asyncio.gather(*[one() for _ in range(4)])
    assert len(set(asyncio.run(many()))) == 1


run(globals())
