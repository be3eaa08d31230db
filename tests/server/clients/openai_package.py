"""The official openai package for Python: `openai_package.py URL KEY [TEST…]`, run by clients.sh with the demo pair.
What the model knows is not tested; that it calls a tool and uses the result is, since the pair was trained to."""
import asyncio
import json

import openai
import pydantic

from common import key, raises, run, url, wait_busy, wait_idle

client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)
chat = client.chat.completions
MODEL = client.models.list().data[0].id
USER = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"model": MODEL, "messages": USER, "temperature": 0, "max_tokens": 200}
QUIET = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
ENDLESS = {"model": MODEL, "messages": USER, "stream": True, "extra_body": {"ignore_eos": True, "n_predict": 3500}}


class City(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=20)
    large: bool


class start_timer(pydantic.BaseModel):
    """Starts a timer for some minutes."""
    duration: int


TIMER = {"type": "function", "function": {
    "name": "start_timer", "description": "Starts a timer for some minutes.",
    "parameters": {"type": "object", "properties": {"duration": {"type": "integer"}}, "required": ["duration"]}}}
ASK_TIMER = [{"role": "user", "content": "Set a timer for 6 minutes."}]


def text_of(chunks):
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)


def test_models():
    assert client.models.retrieve(MODEL).id == MODEL


def test_chat():
    r = chat.create(**GREEDY)
    assert r.choices[0].finish_reason in ("stop", "length") and r.usage.completion_tokens > 0
    chunks = list(chat.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == (r.choices[0].message.content or ""), (text_of(chunks), r)
    assert chunks[-1].usage.completion_tokens == r.usage.completion_tokens
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    with chat.stream(**GREEDY) as s:
        final = s.get_final_completion()
    assert final.choices[0].message.content == r.choices[0].message.content
    return r.choices[0].message.content


def test_several_turns():
    talk = [{"role": "system", "content": "Be brief."}, *USER]
    for _ in range(3):
        r = chat.create(model=MODEL, messages=talk, max_tokens=60, temperature=0, **QUIET)
        talk += [r.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "And what else?"}]
    assert r.usage.prompt_tokens_details.cached_tokens > 0.6 * r.usage.prompt_tokens, r.usage


def test_parameters():
    r = chat.create(**{**GREEDY, "max_tokens": None}, max_completion_tokens=3)
    assert r.choices[0].finish_reason == "length" and r.usage.completion_tokens == 3
    hot = {**GREEDY, "temperature": 1.3, "seed": 5, "max_tokens": 30, "top_p": 0.99}
    a, b = (chat.create(**hot).choices[0].message.content for _ in range(2))
    assert a == b
    whole = chat.create(**GREEDY, **QUIET).choices[0].message.content
    word = whole.split()[-1]
    r = chat.create(**GREEDY, **QUIET, stop=[word])
    assert r.choices[0].message.content == whole[:whole.index(word)] and r.choices[0].finish_reason == "stop", r
    r = chat.create(**GREEDY, n=2)
    assert [c.index for c in r.choices] == [0, 1] and r.choices[0].message.content == r.choices[1].message.content


def test_logprobs():
    r = chat.create(**{**GREEDY, "max_tokens": 5}, logprobs=True, top_logprobs=3)
    rows = r.choices[0].logprobs.content
    assert [len(p.top_logprobs) for p in rows] == [3] * len(rows) and 0 < len(rows) <= 5
    assert all(p.logprob <= 0 and p.top_logprobs[0].token == p.token for p in rows)
    streamed = [p for chunk in chat.create(**{**GREEDY, "max_tokens": 5}, logprobs=True, top_logprobs=3, stream=True)
                for c in chunk.choices if c.logprobs for p in c.logprobs.content]
    assert [(p.token, p.logprob) for p in streamed] == [(p.token, p.logprob) for p in rows], (streamed, rows)


def test_structured():
    r = chat.parse(**{**GREEDY, "max_tokens": 500}, response_format=City, **QUIET)
    assert isinstance(r.choices[0].message.parsed, City)
    with chat.stream(**{**GREEDY, "max_tokens": 500}, response_format=City, **QUIET) as s:
        final = s.get_final_completion()
    assert final.choices[0].message.parsed == r.choices[0].message.parsed
    json.loads(chat.create(**GREEDY, response_format={"type": "json_object"}, **QUIET).choices[0].message.content)
    bad = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"type": "strange"}}}
    raises(openai.BadRequestError, 400, lambda: chat.create(**GREEDY, response_format=bad))
    return r.choices[0].message.parsed


def tool_round(stream, tools, **more):
    """The model calls the tool by itself, gets the result, and uses it."""
    ask = {**GREEDY, "messages": ASK_TIMER, "tools": tools, **more}
    if stream:
        with chat.stream(**ask) as s:
            choice = s.get_final_completion().choices[0]
    else:
        choice = chat.create(**ask).choices[0]
    assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1, choice
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "start_timer"), call
    assert json.loads(call.function.arguments) == {"duration": 6}, call
    ask["messages"] = ASK_TIMER + [choice.message.model_dump(exclude_none=True),
                                   {"role": "tool", "tool_call_id": call.id, "content": "ok"}]
    if stream:
        text = text_of(chat.create(**ask, stream=True))
    else:
        r = chat.create(**ask)
        text = r.choices[0].message.content
        assert r.usage.prompt_tokens_details.cached_tokens > 0, r.usage
    assert "6" in text, text
    return text


def test_tools():
    texts = [tool_round(stream, [TIMER]) for stream in (False, True)]
    assert texts[0] == texts[1]
    return texts[0]


def test_tools_required():
    choice = {"type": "function", "function": {"name": "start_timer"}}
    for how in ("required", choice):
        r = chat.create(**GREEDY, tools=[TIMER], tool_choice=how)
        assert r.choices[0].finish_reason == "tool_calls", r
        assert isinstance(json.loads(r.choices[0].message.tool_calls[0].function.arguments)["duration"], int)
        parts = [t for c in chat.create(**GREEDY, tools=[TIMER], tool_choice=how, stream=True)
                 for t in c.choices[0].delta.tool_calls or []]
        assert "".join(p.function.arguments or "" for p in parts) == r.choices[0].message.tool_calls[0].function.arguments
    r = chat.create(**{**GREEDY, "messages": ASK_TIMER}, tools=[TIMER], tool_choice="none")
    assert not r.choices[0].message.tool_calls and r.choices[0].finish_reason != "tool_calls", r
    r = chat.parse(**{**GREEDY, "messages": ASK_TIMER}, tools=[openai.pydantic_function_tool(start_timer)],
                   tool_choice="required")
    assert r.choices[0].message.tool_calls[0].function.parsed_arguments == start_timer(duration=6), r


def test_completions():
    ask = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 10, "temperature": 0}
    r = client.completions.create(**ask)
    assert 0 < r.usage.completion_tokens <= 10 and r.choices[0].text
    assert "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True)) == r.choices[0].text
    r = client.completions.create(**ask, logprobs=2)
    assert r.choices[0].logprobs is not None


def test_responses():
    ask = {"model": MODEL, "input": "What is the capital of France?", "max_output_tokens": 100, "temperature": 0}
    r = client.responses.create(**ask)
    with client.responses.stream(**ask) as s:
        kinds = [e.type for e in s]
        final = s.get_final_response()
    assert r.output_text and final.output_text == r.output_text and kinds[0] == "response.created", (final, r)
    p = client.responses.parse(**{**ask, "max_output_tokens": 500}, text_format=City, reasoning={"effort": "none"})
    assert isinstance(p.output_parsed, City), p
    tool = {"type": "function", **TIMER["function"], "strict": False}
    ask["input"] = "Set a timer for 6 minutes."
    r = client.responses.create(**ask, tools=[tool])
    call = r.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments) == {"duration": 6}, r
    with client.responses.stream(**ask, tools=[tool]) as s:
        assert s.get_final_response().output[-1].arguments == call.arguments
    follow = [{"role": "user", "content": ask["input"]}, *[o.model_dump(exclude_none=True) for o in r.output],
              {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}]
    text = client.responses.create(**{**ask, "input": follow}, tools=[tool]).output_text
    assert "6" in text, text
    return text


def test_errors():
    e = raises(openai.BadRequestError, 400, lambda: chat.create(**{**GREEDY, "top_p": "x"}), "top_p")
    assert e.param == "top_p" and e.body["type"] == "invalid_request_error", e.body
    raises(openai.BadRequestError, 400, lambda: chat.create(**{**GREEDY, "messages": []}), "messages")
    long = [{"role": "user", "content": "a " * 10**6}]
    raises(openai.BadRequestError, 400, lambda: chat.create(model=MODEL, messages=long), "context size")
    raises(openai.BadRequestError, 400, lambda: list(chat.create(**{**GREEDY, "messages": long}, stream=True)))
    raises(openai.NotFoundError, 404, lambda: client.models.retrieve("none"))
    raises(openai.NotFoundError, 404, lambda: client.post("/nothing", body={}, cast_to=object))
    stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
    raises(openai.AuthenticationError, 401, lambda: stranger.chat.completions.create(**GREEDY), "Invalid API Key")
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    raises(openai.BadRequestError, 400, lambda: chat.create(model=MODEL, messages=picture), "image")
    raises(openai.InternalServerError, 501,
               lambda: client.embeddings.create(model=MODEL, input="a"))
    nowhere = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key=key, max_retries=0)
    try:
        nowhere.models.list()
    except openai.APIConnectionError:
        return
    raise AssertionError("no APIConnectionError")


def test_timeout():
    raises(openai.APITimeoutError, None, lambda: chat.create(**{**ENDLESS, "stream": False}, timeout=0.05))
    wait_idle()


def test_abort():
    """Closing a stream, or leaving its block, frees the slot."""
    s = chat.create(**ENDLESS)
    next(iter(s))
    wait_busy(1)
    s.close()
    wait_idle()
    with chat.create(**ENDLESS) as s:
        next(iter(s))
        wait_busy(1)
    wait_idle()


def test_too_many():
    """The server of this run lets two wait (--queue-max 2)."""
    running = [chat.create(**ENDLESS) for _ in range(2)]
    for s in running:
        next(iter(s))
    wait_busy(2)

    async def crowd():
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=60) as a:
            ask = {**ENDLESS, "stream": False, "extra_body": {"n_predict": 4}}
            got = asyncio.gather(*[a.chat.completions.create(**ask) for _ in range(8)], return_exceptions=True)
            await asyncio.sleep(1)
            for s in running:
                s.close()
            return await got

    got = asyncio.run(crowd())
    refused = [e for e in got if isinstance(e, openai.RateLimitError)]
    assert len(refused) == 6 and all(e.response.headers["retry-after"] == "1" for e in refused), got
    assert sum(not isinstance(e, Exception) for e in got) == 2, got
    wait_idle()


def test_async():
    async def many():
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=4) as a:
            async def one():
                return "".join([c.choices[0].delta.content or "" async for c in
                                await a.chat.completions.create(**GREEDY, stream=True) if c.choices])
            return await asyncio.gather(*[one() for _ in range(4)])
    assert len(set(asyncio.run(many()))) == 1


run(globals())
