"""`tandem serve` from outside: a synthetic pair, every endpoint, limits, streams against whole answers, leaving clients,
signals. Arguments: names of tests to run; without any, all."""
import http.client
import json
import os
import socket
import subprocess
import sys
import time

from harness import BINARY, DEMO, DEMO_DRAFT, Server, check, parse_metrics, run, same

PROMPT = "The quick brown fox"
GREEDY = {"prompt": PROMPT, "temperature": 0, "n_predict": 48, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "Say something."}], "temperature": 0, "max_tokens": 32}


def refused(s, path, body, param=None, status=400, raw=None, headers=None):
    got, _, answer = s.call("POST", path, body, headers, raw)
    check(got == status, path, str(body)[:200], "answers", got, answer)
    e = answer["error"]
    if param is not None:
        check(param in e["message"] or e.get("param") == param, "the error does not name", param, answer)
    return e


# ---- information


def test_health(s):
    same(s.get("/health"), {"status": "ok"})
    same(s.get("/v1/health"), {"status": "ok"})
    v = s.get("/health?verbose=1")
    same(v["slots_idle"] + v["slots_processing"], 4)
    status, headers, body = s.call("HEAD", "/health")
    same((status, body), (200, b""))
    for status, body in s.early:
        same((status, body["error"]["message"], body["error"]["type"]), (503, "Loading model", "unavailable_error"))


def test_models(s):
    for path in ("/models", "/v1/models"):
        m = s.get(path)
        same(m["object"], "list")
        check(m["data"][0]["meta"]["n_ctx"] > 0, m)
    name = m["data"][0]["id"]
    same(name, "tiny-q4_0.gguf")
    same(s.get("/v1/models/" + name)["id"], name)
    same(s.call("GET", "/v1/models/other")[0], 404)
    a = s.get("/v1/models", {"anthropic-version": "2023-06-01"})
    same((a["data"][0]["id"], a["has_more"], a["data"][0]["type"]), (name, False, "model"))


def test_props(s):
    p = s.get("/props")
    same(p["total_slots"], 4)
    check(p["default_generation_settings"]["params"]["top_k"] >= 0, p)
    same(s.call("POST", "/props", {})[0], 501)


def test_page(s):
    status, headers, body = s.call("GET", "/")
    same(status, 200)
    check(body.startswith(b"<!doctype html>") and b"</html>" in body, body[:80])
    check("default-src 'none'" in headers["Content-Security-Policy"], headers)
    check(b"src=" not in body and b"url(" not in body, "the page asks for a resource")


def test_routes(s):
    for path in ("/none", "/v1/none", "/completion/x", "/v1/models/a/b"):
        status, _, body = s.call("GET", path)
        same((status, body["error"]["type"]), (404, "not_found_error"), path)
        same(s.call("POST", path, {})[0], 404, path)
    same(s.call("POST", "/v1/messages/none", {})[2]["type"], "error")
    same(s.call("PUT", "/completion", {})[0], 405)
    same(s.call("POST", "/completion?beta=true", {**GREEDY, "n_predict": 1})[0], 200)
    for path in ("/v1/embeddings", "/infill", "/rerank", "/v1/audio/transcriptions", "/lora-adapters"):
        status, _, body = s.call("POST", path, {})
        same((status, body["error"]["type"]), (501, "not_supported_error"), path)
    same(s.call("POST", "/tools", {})[0], 403)


def test_request_id(s):
    same(s.call("GET", "/health", headers={"x-request-id": "abc-1"})[1]["x-request-id"], "abc-1")
    a, b = (s.call("GET", "/health")[1]["x-request-id"] for _ in range(2))
    check(a and a != b, a, b)


def test_keep_alive(s):
    c = s.connect()
    for i in range(3):
        c.request("POST", "/completion", json.dumps({**GREEDY, "n_predict": 2}).encode())
        r = c.getresponse()
        same(r.status, 200)
        r.read()
    c.request("POST", "/completion", b"{")
    same(c.getresponse().read() and True, True)
    c.close()


# ---- text


def test_tokenize(s):
    for text in ("", "a", "Hello, world!", "h\u00e9 \u4f60\u597d \U0001f600\n\t x", "  two  blanks ", "<b>&amp;"):
        ids = s.post("/tokenize", {"content": text})["tokens"]
        same(s.post("/detokenize", {"tokens": ids})["content"], text)
        pieces = s.post("/tokenize", {"content": text, "with_pieces": True})["tokens"]
        same([p["id"] for p in pieces], ids)
        raw = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
        same(raw.decode().replace("\u2581", " "), text)
    ids = s.post("/tokenize", {"content": "a"})["tokens"]
    same(s.post("/tokenize", {"content": "a", "add_special": True})["tokens"][1:], ids)
    same(s.post("/tokenize", {"content": ids + ["a"]})["tokens"], ids + ids)
    refused(s, "/tokenize", {"content": {}}, "content")
    refused(s, "/tokenize", {"content": [10**9]}, "content")
    for bad in ("a", [-1], [10**9], [1.5], ["a"], [None]):
        refused(s, "/detokenize", {"tokens": bad}, "tokens")


def test_apply_template(s):
    p = s.post("/apply-template", {"messages": [{"role": "system", "content": "Be brief."},
                                                {"role": "user", "content": "Hi <x>"}]})["prompt"]
    check("Be brief." in p and "Hi <x>" in p and p.index("Be brief.") < p.index("Hi <x>"), p)
    n = s.post("/v1/chat/completions/input_tokens", CHAT)["input_tokens"]
    same(s.post("/v1/chat/completions", CHAT)["usage"]["prompt_tokens"], n)
    a = {"max_tokens": 4, "messages": CHAT["messages"]}
    n = s.post("/v1/messages/count_tokens", a)["input_tokens"]
    u = s.post("/v1/messages", a)["usage"]
    same(u["input_tokens"] + u["cache_read_input_tokens"], n)


# ---- completion


def test_same_text(s):
    """Greedy text does not depend on streaming, drafts, slot, cache or what else runs."""
    whole = s.post("/completion", GREEDY)
    text = whole["content"]
    same(whole["tokens_predicted"], 48)
    same(whole["stop_type"], "limit")
    for change in ({"speculative": False}, {"speculative": {"n_max": 1}}, {"cache_prompt": False}, {"id_slot": 2},
                   {"id_slot": 3, "speculative": False}, {"n_probs": 2}, {"top_k": 1, "temperature": 1}):
        same(s.post("/completion", {**GREEDY, **change})["content"], text, change)
    for change in ({}, {"speculative": False}):
        events = s.stream("/completion", {**GREEDY, **change, "return_tokens": True})
        same("".join(e["content"] for _, e in events), text, change)
        check([e["stop"] for _, e in events] == [False] * (len(events) - 1) + [True], "stop flags")
        same(len([t for _, e in events[:-1] for t in e["tokens"]]), 48)
        same(events[-1][1]["tokens"], [t for _, e in events[:-1] for t in e["tokens"]])
    whole = s.post("/v1/completions", {**GREEDY, "max_tokens": 48})
    same(whole["choices"][0]["text"], text)
    same(whole["choices"][0]["finish_reason"], "length")
    same(whole["usage"]["completion_tokens"], 48)
    events = s.stream("/v1/completions", {**GREEDY, "stream_options": {"include_usage": True}})
    same(events[-1][1], "[DONE]")
    same(events[-2][1]["usage"]["completion_tokens"], 48)
    same(events[-2][1]["choices"], [])
    same("".join(c["text"] for _, e in events[:-1] for c in e["choices"]), text)
    same(s.post("/v1/completions", {**GREEDY, "echo": True})["choices"][0]["text"].lstrip(), PROMPT + text)
    ids = s.post("/tokenize", {"content": PROMPT, "add_special": True})["tokens"]
    same(s.post("/completion", {**GREEDY, "prompt": ids})["content"], text)


def test_load(s):
    """Eight at once on four slots: the same texts as alone."""
    bodies = [{**GREEDY, "prompt": PROMPT + " %d" % (i % 4), "speculative": i % 2 == 0} for i in range(8)]
    alone = [s.post("/completion", b)["content"] for b in bodies]
    conns = []
    for b in bodies:
        c = s.connect()
        c.request("POST", "/completion", json.dumps(b).encode())
        conns.append(c)
    same([json.loads(c.getresponse().read())["content"] for c in conns], alone)
    for c in conns:
        c.close()


def test_drafts(s):
    t = s.post("/completion", GREEDY)["timings"]
    check(0 < t["draft_n_accepted"] <= t["draft_n"], t)
    check(t["draft_n_accepted"] + t["draft_rounds"] <= 48 + 1, t)
    check("draft_n" not in s.post("/completion", {**GREEDY, "speculative": False})["timings"], "drafts though off")
    events = s.stream("/v1/chat/completions", {**CHAT, "tandem": True})
    marks = [m for _, e in events[:-1] for m in e.get("tandem", [])]
    check(len(marks) > 0 and any(m["d"] for m in marks) and not all(m["d"] for m in marks), marks)


def test_n(s):
    many = s.post("/completion", {**GREEDY, "n": 3})
    same([m["index"] for m in many], [0, 1, 2])
    same(len({m["content"] for m in many}), 1)
    many = s.post("/v1/completions", {**GREEDY, "n": 2})
    same([c["index"] for c in many["choices"]], [0, 1])
    events = s.stream("/v1/completions", {**GREEDY, "n": 2})
    texts = ["", ""]
    for _, e in events[:-1]:
        for c in e["choices"]:
            texts[c["index"]] += c["text"]
    same(texts, [c["text"] for c in many["choices"]])
    same(len(s.post("/v1/chat/completions", {**CHAT, "n": 2})["choices"]), 2)
    refused(s, "/completion", {**GREEDY, "n": 5}, "n")
    refused(s, "/completion", {**GREEDY, "n": 0}, "n")


def test_seed(s):
    hot = {**GREEDY, "temperature": 1.5, "top_k": 0, "top_p": 1, "seed": 7, "min_p": 0}
    a = s.post("/completion", hot)["content"]
    same(s.post("/completion", {**hot, "id_slot": 2, "cache_prompt": False})["content"], a)
    check(s.post("/completion", {**hot, "seed": 8})["content"] != a, "another seed, the same text")
    many = s.post("/completion", {**hot, "n": 2})
    same(many[0]["content"], a)
    same(many[1]["content"], s.post("/completion", {**hot, "seed": 8})["content"])
    refused(s, "/completion", {**GREEDY, "seed": "x"}, "seed")


def test_stop(s):
    text = s.post("/completion", GREEDY)["content"]
    word = text[len(text) // 2:len(text) // 2 + 3]
    for path, of in (("/completion", lambda a: a["content"]), ("/v1/completions", lambda a: a["choices"][0]["text"])):
        a = s.post(path, {**GREEDY, "stop": [word, "never in it \u2603"]})
        same(of(a), text[:text.index(word)])
    events = s.stream("/completion", {**GREEDY, "stop": word})
    same("".join(e["content"] for _, e in events), text[:text.index(word)])
    same((events[-1][1]["stop_type"], events[-1][1]["stopping_word"]), ("word", word))
    for bad in (1, [1], {"a": 1}, [["a"]]):
        refused(s, "/completion", {**GREEDY, "stop": bad}, "stop")


def test_probs(s):
    a = s.post("/completion", {**GREEDY, "n_predict": 6, "n_probs": 3, "return_tokens": True})
    same(len(a["completion_probabilities"]), 6)
    for p, token in zip(a["completion_probabilities"], a["tokens"]):
        top = [t["logprob"] for t in p["top_logprobs"]]
        same(p["id"], token)
        same(len(top), 3)
        check(top == sorted(top, reverse=True) and top[0] <= 1e-6, top)
        same(p["top_logprobs"][0]["id"], token, "greedy takes the likeliest")
    a = s.post("/completion", {**GREEDY, "n_predict": 3, "n_probs": 3, "post_sampling_probs": True})
    for p in a["completion_probabilities"]:
        check(0 <= p["prob"] <= 1.0001 and sum(t["prob"] for t in p["top_probs"]) <= 1.0001, p)
    c = s.post("/v1/chat/completions", {**CHAT, "max_tokens": 4, "logprobs": True, "top_logprobs": 2})
    check(all(len(p["top_logprobs"]) == 2 for p in c["choices"][0]["logprobs"]["content"]), c)
    refused(s, "/v1/chat/completions", {**CHAT, "top_logprobs": 2}, "top_logprobs")
    refused(s, "/completion", {**GREEDY, "n_probs": 1001}, "n_probs")


def test_grammar(s):
    for drafts in (True, False):
        a = s.post("/completion", {**GREEDY, "ignore_eos": False, "grammar": 'root ::= "yes" | "no"',
                                   "speculative": drafts})
        check(a["content"] in ("yes", "no") and a["stop_type"] == "eos", a["content"], a["stop_type"])
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "c": {"enum": ["red", "green"]}},
              "required": ["ok", "c"], "additionalProperties": False}
    a = s.post("/completion", {**GREEDY, "ignore_eos": False, "json_schema": schema, "logit_bias": s.no_blanks()})
    o = json.loads(a["content"])
    check(set(o) == {"ok", "c"} and isinstance(o["ok"], bool) and o["c"] in ("red", "green"), o)
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    quiet = {"logit_bias": s.no_blanks(), "chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 64}
    a = s.post("/v1/chat/completions", {**CHAT, **quiet, "response_format": form})
    check(json.loads(a["choices"][0]["message"]["content"])["c"] in ("red", "green"), a)
    refused(s, "/completion", {**GREEDY, "grammar": "root ::= ("}, "grammar")
    refused(s, "/completion", {**GREEDY, "grammar": 5}, "grammar")
    refused(s, "/completion", {**GREEDY, "grammar": 'root ::= "a"', "json_schema": {}}, "grammar")
    refused(s, "/completion", {**GREEDY, "json_schema": {"type": "strange"}}, "json_schema")
    refused(s, "/v1/chat/completions", {**CHAT, "response_format": {"type": "xml"}}, "response_format")


def test_bias(s):
    first = s.post("/completion", {**GREEDY, "n_predict": 1, "return_tokens": True})["tokens"][0]
    for bias in ([[first, False]], {str(first): -1e9}):
        a = s.post("/completion", {**GREEDY, "n_predict": 1, "return_tokens": True, "logit_bias": bias})
        check(a["tokens"][0] != first, "the bias does nothing")
    a = s.post("/completion", {**GREEDY, "n_predict": 1, "return_tokens": True, "logit_bias": [[77, 1e6]]})
    same(a["tokens"], [77])
    for bad in (5, [[1]], [[-1, 1]], [[8192, 1]], [[1, "x"]], [[1.5, 1]], [[True, 1]], [[[], 1]], {"-1": 1},
                {"99999": 1}, [[1, 2, 3]]):
        refused(s, "/completion", {**GREEDY, "logit_bias": bad}, "logit_bias")


def test_context(s):
    n_ctx = s.get("/props")["default_generation_settings"]["n_ctx"]
    e = refused(s, "/completion", {"prompt": [5] * (n_ctx + 1)})
    same((e["type"], e["n_ctx"], e["n_prompt_tokens"]), ("exceed_context_size_error", n_ctx, n_ctx + 1))
    long = "word " * n_ctx * 2
    e = refused(s, "/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": long}]})
    check(e["message"].startswith("prompt is too long: "), e)


def test_cache(s):
    long = {**GREEDY, "prompt": "one two three four five six seven eight nine ten " * 8, "id_slot": 1, "n_predict": 4}
    first = s.post("/completion", {**long, "cache_prompt": False})
    again = s.post("/completion", long)
    check(again["timings"]["cache_n"] >= again["tokens_evaluated"] - 8, again["timings"])
    same(again["content"], first["content"])
    s.post("/slots/1?action=erase", {})
    same(s.post("/completion", {**long, "cache_prompt": False})["timings"]["cache_n"], 0)


def test_cache_keys(s):
    """Names of a conversation neither hide what a cache holds nor change an answer."""
    talk = {**CHAT, "messages": [{"role": "user", "content": "One two three four five six. " * 20}], "ignore_eos": True}
    fresh = s.post("/v1/chat/completions", {**talk, "cache_prompt": False, "prompt_cache_key": "a"})
    s.post("/v1/chat/completions", {**talk, "prompt_cache_key": "a"})
    for member, value in (("prompt_cache_key", "a"), ("prompt_cache_key", "b"), ("cache_key", "c"), ("session_id", "d"),
                          ("prompt_cache_key", None)):
        a = s.post("/v1/chat/completions", {**talk, member: value})
        check(a["timings"]["cache_n"] >= a["usage"]["prompt_tokens"] - 8, member, value, a["timings"])
        same(a["choices"][0]["message"], fresh["choices"][0]["message"], member, value)
    for path, body in (("/v1/chat/completions", talk), ("/v1/responses", {"input": "a"}), ("/completion", GREEDY)):
        refused(s, path, {**body, "prompt_cache_key": 5}, "prompt_cache_key")


def cache_metrics(own, headers=None):
    got = parse_metrics(own.call("GET", "/metrics", headers=headers)[2].decode())[0]
    return {name: got["llamacpp:prompt_cache_" + name, ""] for name in ("entries", "bytes", "hits_total")}


def test_prompt_cache(s):
    """One slot, many conversations: the ones that lost it come back from memory, with the same text."""
    own = Server(DEMO, "-md", DEMO_DRAFT, "-np", "1", "-c", "2048", "--metrics", "--cache-ram", "64", "--api-key", "a,b")
    key = {"X-Api-Key": "a"}
    names = ("cat", "dog", "boat", "tree", "king", "girl", "bird", "house", "ball", "moon", "river", "cake")
    words = [" ".join("The %s saw the %s." % (n, names[(k * 5 + i) % 12]) for i in range(40)) + " Then the %s" % n
             for k, n in enumerate(names)]
    body = lambda k, tail="": {**GREEDY, "prompt": words[k] + tail, "n_predict": 24}
    ask = lambda b, k=key: own.post("/completion", b, k)
    try:
        fresh = [ask({**body(k), "cache_prompt": False})["content"] for k in range(4)]
        same(len(set(fresh)), 4)
        for round_ in range(2):
            for k in range(4):
                a = ask(body(k))
                same(a["content"], fresh[k], round_, k)
                if round_ == 1:
                    check(a["timings"]["cache_n"] >= a["tokens_evaluated"] - 2, k, a["timings"])
        # Another tail, and one that leaves it in the middle (where its window may be gone): as without any cache.
        for prompt, least in ((words[1] + fresh[1] + " and more", 50), (words[2][:len(words[2]) // 2] + " elsewhere", 0)):
            got = ask({**body(0), "prompt": prompt})
            check(got["timings"]["cache_n"] >= least, got["timings"])
            same(ask({**body(0), "prompt": prompt, "cache_prompt": False, "speculative": False})["content"], got["content"])
        m = cache_metrics(own, key)
        check(m["hits_total"] >= 4 and m["entries"] >= 2 and 0 < m["bytes"] <= 64 << 20, m)
        # Nobody goes on from what another key has said.
        other = ask(body(3), {"X-Api-Key": "b"})
        same((other["timings"]["cache_n"], other["content"]), (0, fresh[3]))
    finally:
        own.stop()
    for limit, entries in (("0", lambda n: n == 0), ("4", lambda n: n < 11)):
        with Server(DEMO, "-np", "1", "-c", "1024", "-ctxcp", "0", "--metrics", "--cache-ram", limit) as own:
            for k in range(12):
                own.post("/completion", {**body(k), "n_predict": 1})
                m = cache_metrics(own)
                check(m["bytes"] <= int(limit) << 20 and entries(m["entries"]), limit, m)
            check(limit == "0" or m["entries"] > 0, m)
            # What is kept takes no room from jobs: these may fill the whole context.
            for k in range(12):
                own.post("/completion", {**body(k), "n_predict": -1, "stop": [" "], "cache_prompt": k % 3 > 0})


# ---- chat dialects


def test_chat_stream(s):
    whole = s.post("/v1/chat/completions", CHAT)
    same(whole["object"], "chat.completion")
    message = whole["choices"][0]["message"]
    events = s.stream("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
    check(all(name is None for name, _ in events), "event names")
    same(events[-1][1], "[DONE]")
    chunks = [e for _, e in events[:-1]]
    same({c["object"] for c in chunks}, {"chat.completion.chunk"})
    same(len({c["id"] for c in chunks}), 1)
    same(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": None})
    same(chunks[-1]["choices"], [])
    same(chunks[-1]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
    reasons = [c["choices"][0]["finish_reason"] for c in chunks[:-1]]
    same(reasons, [None] * (len(reasons) - 1) + [whole["choices"][0]["finish_reason"]])
    for key in ("content", "reasoning_content"):
        text = "".join(c["choices"][0]["delta"].get(key) or "" for c in chunks[1:-1])
        same(text, message.get(key) or "", key)
    check("usage" not in s.stream("/v1/chat/completions", CHAT)[-2][1], "usage though not asked for")


TOOLS = [{"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": {
    "type": "object", "properties": {"colour": {"type": "string", "enum": ["red", "green"]}},
    "required": ["colour"], "additionalProperties": False}}}]


def test_tools(s):
    body = {**CHAT, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200,
            "logit_bias": s.no_blanks(), "chat_template_kwargs": {"enable_thinking": False}}
    c = s.post("/v1/chat/completions", body)["choices"][0]
    same(c["finish_reason"], "tool_calls")
    call = c["message"]["tool_calls"][0]
    same(call["function"]["name"], "paint")
    check(json.loads(call["function"]["arguments"])["colour"] in ("red", "green"), call)
    events = s.stream("/v1/chat/completions", body)
    parts = [t for _, e in events[:-1] for ch in e["choices"] for t in ch["delta"].get("tool_calls", [])]
    same((parts[0]["function"]["name"], parts[0]["index"], parts[0]["type"]), ("paint", 0, "function"))
    same("".join(p["function"].get("arguments", "") for p in parts), call["function"]["arguments"])
    follow = {**body, "tool_choice": "auto", "max_tokens": 8, "messages": CHAT["messages"] + [
        c["message"], {"role": "tool", "tool_call_id": call["id"], "content": "done"}]}
    same(len(s.post("/v1/chat/completions", follow)["choices"]), 1)
    a = {"max_tokens": 200, "temperature": 0, "messages": CHAT["messages"], "tool_choice": {"type": "any"}, "logit_bias": s.no_blanks(),
         "tools": [{"name": "paint", "input_schema": TOOLS[0]["function"]["parameters"]}]}
    m = s.post("/v1/messages", a)
    same((m["stop_reason"], m["content"][-1]["type"]), ("tool_use", "tool_use"))
    check(m["content"][-1]["input"]["colour"] in ("red", "green"), m)
    refused(s, "/v1/chat/completions", {**body, "tools": {}}, "tools")
    refused(s, "/v1/chat/completions", {**body, "tools": [{"type": "function"}]})


def test_anthropic(s):
    body = {"max_tokens": 24, "temperature": 0, "messages": CHAT["messages"]}
    whole = s.post("/v1/messages", body)
    same((whole["type"], whole["role"]), ("message", "assistant"))
    events = s.stream("/v1/messages", body)
    check(all(name == e["type"] for name, e in events), "event names")
    kinds = [e["type"] for _, e in events if e["type"] != "ping"]
    same((kinds[0], kinds[-2], kinds[-1]), ("message_start", "message_delta", "message_stop"))
    open_block, blocks = None, []
    for _, e in events:
        if e["type"] == "content_block_start":
            check(open_block is None, "a block inside a block")
            open_block = e["index"]
            same(open_block, len(blocks))
            blocks.append({**e["content_block"]})
        elif e["type"] == "content_block_delta":
            same(e["index"], open_block)
            d = e["delta"]
            if d["type"] in ("text_delta", "thinking_delta"):
                blocks[-1][d["type"][:-6]] += d[d["type"][:-6]]
        elif e["type"] == "content_block_stop":
            same(e["index"], open_block)
            open_block = None
    same(open_block, None)
    same([(b["type"], b.get("text")) for b in blocks], [(b["type"], b.get("text")) for b in whole["content"]])
    delta = next(e for _, e in events if e["type"] == "message_delta")
    same(delta["delta"]["stop_reason"], whole["stop_reason"])
    same(delta["usage"]["output_tokens"], whole["usage"]["output_tokens"])
    status, headers, e = s.call("POST", "/v1/messages", {"max_tokens": 4})
    same((status, e["type"], e["error"]["type"]), (400, "error", "invalid_request_error"))
    same(e["request_id"], headers["request-id"])


def test_responses(s):
    body = {"input": "Say something.", "max_output_tokens": 24, "temperature": 0}
    whole = s.post("/v1/responses", body)
    same(whole["object"], "response")
    events = s.stream("/v1/responses", body)
    check(all(name == e["type"] for name, e in events), "event names")
    same([e["sequence_number"] for _, e in events], list(range(len(events))))
    same(events[0][1]["type"], "response.created")
    last = events[-1][1]
    same(last["type"], "response.completed" if whole["status"] == "completed" else "response.incomplete")
    text = "".join(e["delta"] for _, e in events if e["type"] == "response.output_text.delta")
    of = lambda r: "".join(c["text"] for i in r["output"] if i["type"] == "message" for c in i["content"])
    same((text, of(last["response"])), (of(whole), of(whole)))


def test_chat_errors(s):
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        refused(s, path, {}, None)
        refused(s, path, {"messages": 5, "input": 5, "max_tokens": 5})
        refused(s, path, {"messages": [5], "input": [5], "max_tokens": 5})
    refused(s, "/v1/chat/completions", {}, "messages")
    refused(s, "/v1/chat/completions", {"messages": []}, "messages")
    refused(s, "/v1/messages", {"messages": [], "max_tokens": 1}, "messages")
    refused(s, "/v1/chat/completions", {"messages": [{"role": "user"}]}, "content")
    refused(s, "/v1/chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:,"}}]}]})
    refused(s, "/v1/chat/completions", {**CHAT, "add_generation_prompt": True, "continue_final_message": True})


# ---- limits


def test_bodies(s):
    for path in ("/completion", "/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses",
                 "/tokenize", "/detokenize", "/apply-template", "/v1/messages/count_tokens"):
        for raw in (b"", b"{", b"nonsense", b"[]", b"5", b'{"a":1}}', b'{"prompt":"\xff\xfe"}', b'{"n":NaN}',
                    b'{"n":1e999999}x', b"[" * 100000, b'{"a":' * 100000, b"\x00" * 10, b'{"content":"\x01"}'):
            refused(s, path, None, raw=raw)
    same(s.call("POST", "/completion", None, {"Content-Encoding": "gzip"}, b"x")[0], 415)
    same(s.post("/completion", {**GREEDY, "unknown": [1, {}], "n_predict": 1})["tokens_predicted"], 1)
    refused(s, "/completion", {"n_predict": 1}, "prompt")
    for bad in (5, True, {}, [], [True], [[]], [[1], [True]], [[[1]]], [-1], [8192], [None], ["a"] * 300,
                {"prompt_string": 5}, {"prompt_string": "a", "multimodal_data": ["aGk="]}):
        refused(s, "/completion", {"prompt": bad, "n_predict": 1}, "prompt")
    twice = b'{"prompt":"a","n_predict":3,"n_predict":1,"ignore_eos":true}'
    same(s.call("POST", "/completion", raw=twice)[2]["tokens_predicted"], 1)


def test_large_body(s):
    with Server(s.model, "--max-body-mb", "1", "-np", "1", "-c", "512") as small:
        body = b'{"content":"' + b"a" * (1 << 20) + b'"}'
        c = small.connect()
        try:
            c.request("POST", "/tokenize", body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            same(c.getresponse().status, 413)
        except (ConnectionResetError, http.client.RemoteDisconnected):
            pass
        c.close()
        c = small.connect()
        try:
            c.request("POST", "/tokenize", iter([body[:1000]] * 2000), {"Transfer-Encoding": "chunked"},
                      encode_chunked=True)
            same(c.getresponse().status, 413)
        except (BrokenPipeError, ConnectionResetError):
            pass
        c.close()
        with socket.create_connection(("127.0.0.1", small.port)) as k:
            k.sendall(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
            k.settimeout(10)
            check(b" 413 " in k.recv(4000), "a large length is not refused at once")
        for junk in (b"\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                     b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100000 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", small.port)) as k:
                k.settimeout(10)
                try:
                    k.sendall(junk)
                    k.shutdown(socket.SHUT_WR)
                    k.recv(4000)
                except OSError:
                    pass
        same(small.get("/health"), {"status": "ok"})


ENDPOINTS = (("/completion", {"prompt": PROMPT, "n_predict": 1}),
             ("/v1/completions", {"prompt": PROMPT, "n_predict": 1}),
             ("/v1/chat/completions", {**CHAT, "max_tokens": 1}),
             ("/v1/messages", {"messages": CHAT["messages"], "max_tokens": 1}),
             ("/v1/responses", {"input": "a", "max_output_tokens": 1}))
OF_TYPE = {"n": [5, 0.5], "s": ["x"], "b": [True], "a": [[]], "o": [{}]}
KINDS = {"i": "n", "l": "n", "f": "n", "b": "b", "s": "s", "a": "a"}


def with_member(base, name, text):
    """The body with one more member, of which the text is given (it may be no JSON)."""
    rest = {k: v for k, v in base.items() if k != name}
    return (json.dumps(rest)[:-1] + ', "%s": %s}' % (name, text)).encode()


def test_wrong_types(s):
    """Every row of the table that parses, in every endpoint: what it may not be is a 400 with its name."""
    rows = json.loads(subprocess.check_output([os.environ["TD_FIELDS"]]))
    check(len(rows) > 60, len(rows))
    for path, base in ENDPOINTS:
        for r in rows:
            name, kinds = r["name"], r["types"] if r["kind"] == "x" else KINDS[r["kind"]]
            wrong = [v for t in "nsbao" if t not in kinds for v in OF_TYPE[t]]
            if r["kind"] in "il":
                wrong.append(0.5)
            for w in wrong:
                refused(s, path, {**base, name: w}, name)
            for text in ("NaN", "Infinity", "1e999", "-1e999"):
                refused(s, path, None, raw=with_member(base, name, text))
            s.post(path, {**{k: v for k, v in base.items() if k != name}, name: None, "t_max_predict_ms": 1,
                          **({"n_predict": 1} if name != "n_predict" else {"max_tokens": 1})})


def test_table(s):
    """In every endpoint: below and above its limits a number is a 400 with its name, or silently limited where the table
    says so; at its limits it is taken; of two equal members the last counts."""
    rows = json.loads(subprocess.check_output([os.environ["TD_FIELDS"]]))
    for path, base in ENDPOINTS:
        for r in rows:
            if r["kind"] in "ilf":
                walk_number(s, path, base, r)


def walk_number(s, path, base, r):
    name, number = r["name"], int if r["kind"] in "il" else float
    step = 1 if number is int else max(abs(r["max"]) * 1e-3, 1e-3)
    for value in (number(r["min"] - step), number(r["max"] + step)):
        if not r["clamp"]:
            refused(s, path, {**base, name: value}, name)
            continue
        answer = s.post(path, {**base, name: value})
        if path == "/completion":                           # the endpoint that shows what it took
            got, limit = answer["generation_settings"][name], r["min"] if value < r["min"] else r["max"]
            check(abs(got - limit) <= 1e-5 * max(1, abs(limit)), name, "given", value, "is", got)
    for value in (number(r["min"]), number(r["max"])):
        if name == "n" and value > 4 or name == "n_predict" and value != 1:
            continue
        status, _, a = s.call("POST", path, {**base, name: value})
        check(status == 200, path, name, "at its limit", value, status, a)
    twice = '"x", "%s": %s' % (name, number(r["max"] if name not in ("n", "n_predict") else 1))
    status, _, a = s.call("POST", path, raw=with_member(base, name, twice))
    check(status == 200, path, name, "given twice", status, a)


def test_own_members(s):
    """Members that only one dialect reads."""
    chat, messages, responses = (ENDPOINTS[i][1] for i in (2, 3, 4))
    numbers = (("/v1/chat/completions", chat, "max_tokens", -1, None), ("/v1/chat/completions", chat, "top_logprobs", 0, 20),
               ("/v1/chat/completions", chat, "max_completion_tokens", -1, None),
               ("/v1/chat/completions", chat, "thinking_budget_tokens", -1, None),
               ("/v1/chat/completions", chat, "reasoning_budget", -1, None),
               ("/v1/messages", messages, "max_tokens", 0, None), ("/v1/responses", responses, "max_output_tokens", 0, None))
    for path, base, name, low, high in numbers:
        base = {**base, "logprobs": True} if name == "top_logprobs" else base
        for bad in [low - 1, 2**31, 0.5, "x", True, [], {}] + ([high + 1] if high else []):
            refused(s, path, {**base, name: bad}, name)
        s.post(path, {**base, "t_max_predict_ms": 1, "n_predict": 1, name: high if high else 1})
    switches = (("/v1/chat/completions", chat, ("stream", "logprobs", "add_generation_prompt", "parallel_tool_calls",
                                                "continue_final_message", "include_reasoning", "think")),
                ("/v1/messages", messages, ("stream",)), ("/v1/responses", responses, ("stream", "store")))
    for path, base, names in switches:
        for name in names:
            for bad in (0, 1, "true", [], {}):
                refused(s, path, {**base, name: bad}, name)
    others = (("/v1/chat/completions", chat, "tools", (1, "x", {}, True)), ("/v1/chat/completions", chat, "tool_choice", (1, "x", [])),
              ("/v1/chat/completions", chat, "response_format", (1, "x", [], {"type": 1}, {"type": "json_schema"})),
              ("/v1/chat/completions", chat, "reasoning_effort", (1, "much", [], {})),
              ("/v1/chat/completions", chat, "reasoning_format", (1, "much", [], {})),
              ("/v1/chat/completions", chat, "reasoning", (1, "x", [])),
              ("/v1/chat/completions", chat, "chat_template_kwargs", (1, "x", [], {"enable_thinking": 1})),
              ("/v1/messages", messages, "system", (1, {}, True)), ("/v1/messages", messages, "tools", (1, "x", {})),
              ("/v1/messages", messages, "thinking", ({"type": "x"}, {"type": "enabled", "budget_tokens": -1},
                                                      {"type": "enabled", "budget_tokens": "x"})),
              ("/v1/messages", messages, "stop_sequences", (1, {}, [1])),
              ("/v1/responses", responses, "instructions", (1, [], {})), ("/v1/responses", responses, "tools", (1, "x", {})),
              ("/v1/responses", responses, "previous_response_id", (1, [], {}, "resp_none")))
    for path, base, name, values in others:
        for bad in values:
            refused(s, path, {**base, name: bad})


# ---- slots, metrics


def test_restored_key(s):
    """A restored slot belongs to the key that restored it."""
    a, b = {"X-Api-Key": "a"}, {"X-Api-Key": "b"}
    body = {**GREEDY, "prompt": "Some text to be kept in a file.", "n_predict": 2}
    with Server(s.model, "-np", "1", "-c", "512", "--cache-ram", "0", "--slot-save-path", s.folder, "--api-key", "a,b") as own:
        own.post("/completion", body, a)
        own.post("/slots/0?action=save", {"filename": "key.slot"}, a)
        for asks, hit in ((a, True), (b, False)):
            own.post("/slots/0?action=restore", {"filename": "key.slot"}, a)
            same(own.post("/completion", body, asks)["timings"]["cache_n"] > 0, hit, asks)


def test_slots(s):
    slots = s.get("/slots")
    same([x["id"] for x in slots], [0, 1, 2, 3])
    check(all(not x["is_processing"] for x in slots), slots)
    body = {**GREEDY, "prompt": "Some text to be kept in a file.", "id_slot": 1}
    text = s.post("/completion", body)["content"]
    saved = s.post("/slots/1?action=save", {"filename": "one.slot"})
    check(saved["n_saved"] > 0 and os.path.getsize(os.path.join(s.folder, "one.slot")) == saved["n_written"], saved)
    check(s.post("/slots/1?action=erase", {})["n_erased"] > 0, "nothing erased")
    back = s.post("/slots/1?action=restore", {"filename": "one.slot"})
    same(back["n_restored"], saved["n_saved"])
    again = s.post("/completion", body)
    same(again["content"], text)
    check(again["timings"]["cache_n"] > 0, again["timings"])
    for name in ("", ".", "..", "../one", "a/b", "/tmp/x", "a\u0000b", ".hidden", "x" * 300, 5, None, ["a"]):
        refused(s, "/slots/1?action=save", {"filename": name}, "filename")
    refused(s, "/slots/1?action=restore", {"filename": "none.slot"})
    with open(os.path.join(s.folder, "one.slot"), "r+b") as f:
        f.seek(saved["n_written"] // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    refused(s, "/slots/1?action=restore", {"filename": "one.slot"})
    for path in ("/slots/4?action=erase", "/slots/-1?action=erase", "/slots/x?action=erase", "/slots/0",
                 "/slots/0?action=none"):
        refused(s, path, {})


def test_metrics(s):
    status, headers, text = s.call("GET", "/metrics")
    same(status, 200)
    check(headers["Content-Type"].startswith("text/plain; version=0.0.4"), headers["Content-Type"])
    before, types = parse_metrics(text.decode())
    t = s.post("/completion", {**GREEDY, "cache_prompt": False})["timings"]
    time.sleep(0.1)
    after, _ = parse_metrics(s.call("GET", "/metrics")[2].decode())
    grown = lambda name, labels="": after["llamacpp:" + name, labels] - before["llamacpp:" + name, labels]
    same(grown("tokens_predicted_total"), 48)
    same(grown("prompt_tokens_total"), t["prompt_n"])
    same(grown("spec_decode_num_draft_tokens_total"), t["draft_n"])
    same(grown("spec_decode_num_accepted_tokens_total"), t["draft_n_accepted"])
    same(grown("speculative_draft_tokens_generated_total", 'spec_type="mtp"'), t["draft_n"])
    same(grown("speculative_draft_tokens_accepted_total", 'spec_type="mtp"'), t["draft_n_accepted"])
    same(grown("time_to_first_token_seconds_count"), 1)
    same(grown("requests_total", 'finish_reason="length"'), 1)
    check(grown("http_responses_total", 'status="2xx"') >= 1, "http_responses_total")
    for key, v in before.items():
        if types.get(key[0]) == "counter":
            check(after[key] >= v, "a counter fell:", key)


# ---- leaving


LONG = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True, "n_predict": 3000, "id_slot": 3}


def predicted(s):
    return parse_metrics(s.call("GET", "/metrics")[2].decode())[0]["llamacpp:tokens_predicted_total", ""]


def test_disconnect(s):
    for path, body in (("/completion", {**LONG, "stream": True}), ("/completion", LONG),
                       ("/v1/messages", {"max_tokens": 3000, "stream": True, "ignore_eos": True, "id_slot": 3,
                                         "messages": CHAT["messages"]})):
        before = predicted(s)
        c = s.connect()
        c.request("POST", path, json.dumps(body).encode())
        s.wait_busy(3)
        c.sock.shutdown(socket.SHUT_RDWR)
        c.close()
        s.wait_idle(3)
        check(predicted(s) - before < 2900, path, "went on to the end")
    # One that waits in the queue behind a full slot is taken from it.
    busy, waiting = s.connect(), s.connect()
    busy.request("POST", "/completion", json.dumps({**LONG, "stream": True}).encode())
    s.wait_busy(3)
    waiting.request("POST", "/completion", json.dumps(LONG).encode())
    waiting.sock.shutdown(socket.SHUT_RDWR)
    waiting.close()
    busy.close()
    s.wait_idle(5)


def test_stop_signals(s):
    for cancel in (False, True):
        own = Server(s.model, "-md", s.draft, "-np", "2", "-c", "8192")
        try:
            body = {**LONG, "id_slot": 0, "n_predict": 4000 if cancel else 400, "stream": True}
            c = own.connect()
            c.request("POST", "/completion", json.dumps(body).encode())
            r = c.getresponse()
            same(r.status, 200)
            first = r.read1()
            check(first.startswith(b"data: "), first)
            idle = own.connect()  # a connection that asks for nothing does not hold the server
            idle.connect()
            own.terminate()
            if cancel:
                time.sleep(0.05)
                own.terminate()
            text = (first + r.read()).decode()
            last = json.loads(text.rstrip("\n").rsplit("data: ", 1)[1])
            if not cancel:
                check(last.get("stop") is True and last["tokens_predicted"] == 400, last)
            else:
                check("error" in last or last.get("stop") is True, last)
            own.stop(20)
            c.close()
            idle.close()
        finally:
            own.kill()


# ---- keys, origins


def test_keys(s):
    with Server(s.model, "-np", "1", "-c", "512", "--api-key", "alpha,beta", "--cors-origins",
                "localhost,https://example.org", "--no-slots", "--alias", "name", "--strict-model", "--no-ui") as own:
        body = {"prompt": "a", "n_predict": 1}
        for headers in ({}, {"Authorization": "Bearer alph"}, {"Authorization": "Bearer alphaa"},
                        {"Authorization": "alpha"}, {"X-Api-Key": ""}, {"X-Api-Key": "gamma"}):
            status, _, e = own.call("POST", "/completion", body, headers)
            same((status, e["error"]["type"], e["error"]["message"]),
                 (401, "authentication_error", "Invalid API Key"), headers)
            same(own.call("GET", "/props", headers=headers)[0], 401)
        for headers in ({"Authorization": "Bearer alpha"}, {"X-Api-Key": "beta"}):
            same(own.call("POST", "/completion", body, headers)[0], 200)
        e = own.call("POST", "/v1/messages", body)[2]
        same((e["type"], e["error"]["type"]), ("error", "authentication_error"))
        for path in ("/health", "/v1/models", "/models", "/api/tags"):
            same(own.call("GET", path)[0], 200, path)
        key = {"X-Api-Key": "alpha"}
        same(own.call("GET", "/slots", headers=key)[0], 501)
        same(own.call("GET", "/metrics", headers=key)[0], 501)
        same(own.call("GET", "/", headers=key)[0], 404)
        same(own.call("POST", "/completion", {**body, "model": "other"}, key)[0], 404)
        same(own.call("POST", "/completion", {**body, "model": "name"}, key)[0], 200)
        allowed = lambda origin: own.call("GET", "/health", headers={"Origin": origin})[1].get(
            "Access-Control-Allow-Origin")
        for origin in ("http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080", "https://example.org"):
            same(allowed(origin), origin)
        for origin in ("http://localhost.evil.org", "https://example.org.evil", "null", "http://evil.org"):
            same(allowed(origin), None)
        status, headers, answer = own.call("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "http://localhost:1", "Access-Control-Request-Headers": "authorization"})
        same((status, answer, headers["Access-Control-Allow-Headers"]), (200, b"", "authorization"))
        check("POST" in headers["Access-Control-Allow-Methods"], headers)


def test_start(s):
    """What must not start, with the reason as the last line."""
    for flags, word in ((["-m", "/nonexistent.gguf"], "/nonexistent.gguf"),
                        (["-m", s.model, "--host", "0.0.0.0"], "--api-key"),
                        (["-m", s.model, "--ssl-key-file", "/dev/null"], "--ssl-cert-file"),
                        (["-m", os.devnull], "")):
        r = subprocess.run([BINARY, "serve", "--port", "0", *flags], capture_output=True, timeout=60)
        same(r.returncode, 1, flags)
        check(word in r.stderr.decode().strip().split("\n")[-1], flags, r.stderr)


sys.exit(run(globals(), "-np", "4", "-c", "4096", "--metrics", "--spec-fixed", "--spec-draft-n-max", "3"))
