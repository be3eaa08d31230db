"""What the answers of `tandem serve` hold, with the demo pair: thoughts and their budgets, stored responses, tools of free
text, several prompts, selected members, echo, progress. Arguments: names of tests to run; without any, all."""
import json
import sys
import time

from harness import DEMO, DEMO_DRAFT, Server, check, run, same

QUESTION = "What is 17 plus 25? Think about it."
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 120}
TEXT = {"prompt": "Once upon a time", "temperature": 0, "n_predict": 24, "ignore_eos": True}
demo = None


def server():
    global demo
    if demo is None:
        demo = Server(DEMO, "-md", DEMO_DRAFT, "-np", "2", "-c", "4096", "--metrics", env={"LLAMA_SERVER_SLOTS_DEBUG": "1"})
    return demo


def refused(d, path, body, word, status=400):
    got, _, answer = d.call("POST", path, body)
    same(got, status, path, answer)
    check(word in json.dumps(answer), "the error does not say", word, answer)


# ---- thoughts


def thought(d, **members):
    a = d.post("/v1/chat/completions", {**CHAT, **members})
    m = a["choices"][0]["message"]
    details = a["usage"]["completion_tokens_details"]
    return m.get("reasoning_content", ""), m["content"], details["reasoning_tokens"], a["usage"]["completion_tokens"]


def test_budget(_):
    d = server()
    free, content, n, total = thought(d)
    check(free and content and 0 < n < total, free, content, n, total)
    for name in ("reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"):
        for budget in range(n):
            got = [thought(d, **{name: budget}, **more) for more in ({}, {"speculative": False}, {"speculative": {"n_max": 1}})]
            same(got[1:], got[:1] * 2, "drafts change a cut thought")
            text, _, count, _ = got[0]
            same(count, budget, name)
            check(free.startswith(text) and (text != free or budget == n - 1), text, "is no beginning of", free)
        same(thought(d, **{name: 1000}), (free, content, n, total))
        same(thought(d, **{name: -1}), (free, content, n, total))
    said = thought(d, reasoning_budget=2, reasoning_budget_message=" That will do.")
    check(said[0].endswith(" That will do.") and said[2] == 2, said)
    for off in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}, {"think": False},
                {"reasoning": {"enabled": False}}, {"reasoning": {"effort": "none"}}):
        text, _, n_off, _ = thought(d, **off)
        same((text, n_off), ("", 0), off)
    same(thought(d, reasoning_effort="high"), (free, content, n, total))


def test_budget_dialects(_):
    d = server()
    body = {"messages": CHAT["messages"], "max_tokens": 120, "temperature": 0}
    think = lambda **t: d.post("/v1/messages", {**body, "thinking": {"type": "enabled", **t}})["content"]
    of = lambda blocks: "".join(b["thinking"] for b in blocks if b["type"] == "thinking")
    free = of(think(budget_tokens=1000))
    check(free, "no thought")
    cut = of(think(budget_tokens=3))
    check(cut != free and free.startswith(cut), cut)
    check(not any(b["type"] == "thinking" for b in d.post("/v1/messages", body)["content"]), "a thought nobody asked for")
    hidden = d.post("/v1/messages", {**body, "thinking": {"type": "enabled", "budget_tokens": 500, "display": "omitted"}})
    same(of(hidden["content"]), "")
    r = d.post("/v1/responses", {"input": QUESTION, "temperature": 0, "reasoning_budget_tokens": 3, "max_output_tokens": 120})
    same(r["usage"]["output_tokens_details"]["reasoning_tokens"], 3)
    same(r["output"][0]["content"][0]["text"], cut)
    events = d.stream("/v1/responses", {"input": QUESTION, "temperature": 0, "reasoning_budget_tokens": 3, "max_output_tokens": 120})
    same("".join(e["delta"] for _, e in events if e["type"] == "response.reasoning_text.delta"), cut)
    # A prompt given as text is watched too.
    prompt = d.post("/apply-template", CHAT)["prompt"]
    a = d.post("/completion", {"prompt": prompt, "temperature": 0, "n_predict": 120, "reasoning_budget_tokens": 3, "return_tokens": True})
    b = d.post("/v1/chat/completions", {**CHAT, "reasoning_budget_tokens": 3})
    same(a["tokens_predicted"], b["usage"]["completion_tokens"])
    same(d.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 120, "reasoning_budget": 3})
         ["usage"]["completion_tokens_details"]["reasoning_tokens"], 3)


def test_control(_):
    """A thought that runs on is ended from outside; the answer goes on behind it."""
    d = server()
    prompt = d.post("/apply-template", CHAT)["prompt"] + "<|channel>thought\nOn"
    word = d.post("/tokenize", {"content": " and"})["tokens"][0]
    body = {"prompt": prompt, "stream": True, "max_tokens": 1500, "temperature": 0, "reasoning_control": True,
            "logit_bias": [[word, 100]], "stream_options": {"include_usage": True}}
    c = d.connect()
    c.request("POST", "/v1/completions", json.dumps(body).encode())
    r = c.getresponse()
    same(r.status, 200)
    chunk = json.loads(r.readline().decode()[6:])
    same(d.post("/v1/chat/completions/control", {"id": chunk["id"], "action": "reasoning_end"}), {"success": True})
    refused(d, "/v1/chat/completions/control", {"id": chunk["id"], "action": "other"}, "unknown control action")
    usage = json.loads(r.read().decode().rsplit("data: ", 2)[1])["usage"]
    c.close()
    check(0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"] - 100, usage)
    same(usage["completion_tokens"], 1500)
    refused(d, "/v1/chat/completions/control", {"action": "reasoning_end"}, "missing completion id")
    refused(d, "/v1/chat/completions/control", {"id": "chatcmpl-none", "action": "reasoning_end"}, "no completion", 404)


# ---- responses


def texts(r):
    return "".join(c["text"] for i in r["output"] if i["type"] == "message" for c in i["content"])


def test_previous_response(_):
    d = server()
    base = {"temperature": 0, "max_output_tokens": 60, "reasoning": {"effort": "none"}}
    first = d.post("/v1/responses", {**base, "input": "What is acceptance in Tandem?"})
    second = d.post("/v1/responses", {**base, "input": "What is 2 plus 3?", "previous_response_id": first["id"]})
    same(second["previous_response_id"], first["id"])
    whole = d.post("/v1/responses", {**base, "input": [{"role": "user", "content": "What is acceptance in Tandem?"}, *first["output"],
                                                       {"role": "user", "content": "What is 2 plus 3?"}]})
    same((texts(second), second["usage"]["input_tokens"]), (texts(whole), whole["usage"]["input_tokens"]))
    events = d.stream("/v1/responses", {**base, "input": "And 3 plus 4?", "previous_response_id": second["id"]})
    third = events[-1][1]["response"]
    check(third["usage"]["input_tokens"] > second["usage"]["input_tokens"], third["usage"])
    same(d.get("/v1/responses/" + third["id"]), third)
    same(d.get("/v1/responses/" + first["id"]), first)
    same(d.call("DELETE", "/v1/responses/" + first["id"])[2], {"id": first["id"], "object": "response", "deleted": True})
    for method in ("GET", "DELETE"):
        same(d.call(method, "/v1/responses/" + first["id"])[0], 404)
    refused(d, "/v1/responses", {**base, "input": "a", "previous_response_id": first["id"]}, "not found")
    loose = d.post("/v1/responses", {**base, "input": "a", "store": False})
    same((loose["store"], d.call("GET", "/v1/responses/" + loose["id"])[0]), (False, 404))
    refused(d, "/v1/responses", {**base, "input": "b", "previous_response_id": loose["id"]}, "previous_response_id")


def test_store_bound(_):
    """At most 256, the oldest go; none is seen with another key."""
    with Server(DEMO, "-np", "4", "-c", "512", "--api-key", "a,b") as own:
        body = {"input": "a", "max_output_tokens": 1, "temperature": 0}
        a, b = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
        first = own.post("/v1/responses", body, a)["id"]
        same(own.call("GET", "/v1/responses/" + first, None, a)[0], 200)
        same(own.call("GET", "/v1/responses/" + first, None, b)[0], 404)
        same(own.call("POST", "/v1/responses", {**body, "previous_response_id": first}, b)[0], 400)
        same(own.call("POST", "/v1/responses", {**body, "previous_response_id": first}, a)[0], 200)
        ids = [own.post("/v1/responses", body, b)["id"] for _ in range(256)]
        same(own.call("GET", "/v1/responses/" + first, None, a)[0], 404)
        same([own.call("GET", "/v1/responses/" + i, None, b)[0] for i in (ids[0], ids[-1])], [200, 200])


def test_custom_tools(s):
    """A tool of free text answers as custom_tool_call, and its call goes back in that form."""
    ids = {t for n in range(1, 33) for c in "\t\n\r " for t in s.post("/tokenize", {"content": c * n})["tokens"]}
    body = {"input": "Do it.", "tools": [{"type": "custom", "name": "shell", "description": "Runs a command."},
                                         {"type": "web_search"}],
            "tool_choice": "required", "parallel_tool_calls": False, "temperature": 0, "reasoning": {"effort": "none"},
            "max_output_tokens": 120, "logit_bias": [[i, False] for i in sorted(ids)]}
    whole = s.post("/v1/responses", body)
    call = whole["output"][-1]
    same((call["type"], call["name"], call["id"][:4]), ("custom_tool_call", "shell", "ctc_"))
    check(isinstance(call["input"], str) and "arguments" not in call, call)
    events = s.stream("/v1/responses", body)
    same([e["sequence_number"] for _, e in events], list(range(len(events))))
    kinds = [e["type"] for _, e in events]
    check("response.function_call_arguments.delta" not in kinds, kinds)
    delta = "".join(e["delta"] for _, e in events if e["type"] == "response.custom_tool_call_input.delta")
    done = [e["input"] for _, e in events if e["type"] == "response.custom_tool_call_input.done"]
    same((delta, done), (call["input"], [call["input"]]))
    same({k: events[-1][1]["response"]["output"][-1][k] for k in ("type", "name", "input")},
         {k: call[k] for k in ("type", "name", "input")})
    again = {**body, "tool_choice": "auto", "max_output_tokens": 4, "input": [
        {"role": "user", "content": "Do it."}, call,
        {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "done"}]}
    same(s.post("/v1/responses", again)["object"], "response")


# ---- completion


def test_prompts(_):
    d = server()
    one, two = (d.post("/completion", {**TEXT, "prompt": p})["content"] for p in ("Once upon a time", "The cat"))
    ids = [d.post("/tokenize", {"content": p, "add_special": True})["tokens"] for p in ("Once upon a time", "The cat")]
    for prompts in (["Once upon a time", "The cat"], ids, [ids[0], "The cat"],
                    [{"prompt_string": "Once upon a time"}, {"prompt_string": "The cat", "multimodal_data": []}]):
        many = d.post("/completion", {**TEXT, "prompt": prompts})
        same([(m["index"], m["content"]) for m in many], [(0, one), (1, two)], prompts)
    many = d.post("/v1/completions", {**TEXT, "prompt": ["Once upon a time", "The cat"], "n": 2})
    same([(c["index"], c["text"]) for c in many["choices"]], [(0, one), (1, one), (2, two), (3, two)])
    same(many["usage"]["prompt_tokens"], len(ids[0]) + len(ids[1]))
    pieces = ["", ""]
    for _, e in d.stream("/completion", {**TEXT, "prompt": ["Once upon a time", "The cat"]}):
        pieces[e["index"]] += e["content"]
    same(pieces, [one, two])
    same(d.post("/completion", {**TEXT, "prompt": ids[0][:2] + ["upon a time"]})["tokens_predicted"], 24)
    same(d.post("/completion", {**TEXT, "prompt": ids[0]})["content"], one)


def test_members(_):
    d = server()
    a = d.post("/completion", {**TEXT, "response_fields": ["content", "generation_settings/n_predict", "none/such", "timings"]})
    same(sorted(a), ["content", "generation_settings/n_predict", "timings"])
    same(a["generation_settings/n_predict"], 24)
    whole = d.post("/completion", {**TEXT, "n_probs": 2})
    for name in ("index content tokens id_slot stop model tokens_predicted tokens_evaluated generation_settings prompt "
                 "has_new_line truncated stop_type stopping_word tokens_cached timings completion_probabilities").split():
        check(name in whole, name, "is missing")
    for name in ("cache_n prompt_n prompt_ms prompt_per_token_ms prompt_per_second predicted_n predicted_ms "
                 "predicted_per_token_ms predicted_per_second queue_ms ttft_ms").split():
        check(name in whole["timings"], name, "is missing")
    settings = d.get("/props")["default_generation_settings"]["params"]
    for o in (settings, whole["generation_settings"]):
        for name in ("seed temperature dynatemp_range dynatemp_exponent top_k top_p min_p top_n_sigma xtc_probability "
                     "xtc_threshold typical_p repeat_last_n repeat_penalty presence_penalty frequency_penalty dry_multiplier "
                     "dry_base dry_allowed_length dry_penalty_last_n mirostat mirostat_tau mirostat_eta max_tokens n_predict "
                     "n_keep n_discard ignore_eos stream n_probs min_keep chat_format reasoning_format reasoning_in_content "
                     "generation_prompt samplers speculative.types timings_per_token post_sampling_probs backend_sampling "
                     "lora dry_sequence_breakers stop logit_bias grammar grammar_lazy grammar_triggers preserved_tokens").split():
            check(name in o, name, "is missing in the settings")
    for name in ("default_generation_settings total_slots model_alias model_ftype model_path modalities media_marker "
                 "endpoint_slots endpoint_props endpoint_metrics ui ui_settings chat_template chat_template_caps bos_token "
                 "eos_token build_info is_sleeping cors_proxy_enabled chat_profile speculative memory").split():
        check(name in d.get("/props"), name, "is missing in /props")
    slot = d.get("/slots")[whole["id_slot"]]
    for name in ("id n_ctx speculative is_processing id_task n_prompt_tokens n_prompt_tokens_processed n_prompt_tokens_cache "
                 "params next_token prompt generated state checkpoints").split():
        check(name in slot, name, "is missing in /slots")
    same(slot["generated"], whole["content"])
    same(slot["params"]["n_predict"], 24)
    same(slot["next_token"][0]["n_decoded"], 24)
    same(d.post("/completion", {**TEXT, "n_predict": 0})["tokens_predicted"], 0)
    chain = d.post("/completion", {**TEXT, "n_predict": 1, "samplers": ["top_k", "typical", "temp"]})
    same(chain["generation_settings"]["samplers"], ["top_k", "typ_p", "temperature"])


def test_echo(_):
    d = server()
    text = d.post("/completion", TEXT)["content"]
    same(d.post("/completion", {**TEXT, "echo": True})["content"].lstrip(), TEXT["prompt"] + text)
    same(d.post("/v1/completions", {**TEXT, "echo": True})["choices"][0]["text"].lstrip(), TEXT["prompt"] + text)
    for path, of in (("/completion", lambda e: e["content"]), ("/v1/completions", lambda e: e["choices"][0]["text"])):
        events = d.stream(path, {**TEXT, "echo": True})
        same("".join(of(e) for _, e in events if e != "[DONE]").lstrip(), TEXT["prompt"] + text)
    c = d.post("/v1/completions", {**TEXT, "n_predict": 5, "logprobs": 2})["choices"][0]
    same([len(c["logprobs"][k]) for k in ("content", "tokens", "token_logprobs", "top_logprobs", "text_offset")], [5] * 5)
    same("".join(c["logprobs"]["tokens"]), c["text"])
    same(c["logprobs"]["text_offset"], [len("".join(c["logprobs"]["tokens"][:i])) for i in range(5)])
    same([len(t) for t in c["logprobs"]["top_logprobs"]], [2] * 5)
    for given, n in ((None, 20), (0, 0), (3, 3)):
        body = {**CHAT, "max_tokens": 2, "logprobs": True, **({} if given is None else {"top_logprobs": given})}
        p = d.post("/v1/chat/completions", body)["choices"][0]["logprobs"]["content"]
        same({len(t["top_logprobs"]) for t in p}, {n})


def test_progress(_):
    d = server()
    long = "The cat saw the dog. " * 80
    for path, body in (("/completion", {**TEXT, "prompt": long}), ("/v1/completions", {**TEXT, "prompt": long}),
                       ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": long}]})):
        events = d.stream(path, {**body, "return_progress": True, "cache_prompt": False, "n_predict": 2})
        p = [e["prompt_progress"] for _, e in events if e != "[DONE]" and "prompt_progress" in e]
        check(len(p) > 0, path, "no progress")
        same((p[-1]["processed"], p[-1]["cache"]), (p[-1]["total"], 0))
        check(all(a["processed"] < b["processed"] for a, b in zip(p, p[1:])) and "time_ms" in p[0], p)
        same((p[0]["processed"], len(p)), (p[0]["cache"], 1 + -(-p[0]["total"] // 512)))


def test_time_limit(_):
    """t_max_predict_ms ends an answer once it has a newline."""
    d = server()
    tokens = d.post("/tokenize", {"content": "\n"})["tokens"]
    a = d.post("/completion", {**TEXT, "n_predict": 400, "t_max_predict_ms": 1, "logit_bias": [[tokens[0], False]]})
    if not a["has_new_line"]:
        same(a["tokens_predicted"], 400)
    a = d.post("/completion", {**TEXT, "n_predict": 2000, "t_max_predict_ms": 1, "logit_bias": [[tokens[0], 100]]})
    check(a["has_new_line"] and a["tokens_predicted"] < 2000 and a["stop_type"] == "limit", a["tokens_predicted"])


def test_tool_choice_none(_):
    """Tools stay in the prompt, and none can be called."""
    d = server()
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    body = {**CHAT, "tools": [tool], "max_tokens": 40}
    n = [d.post("/v1/chat/completions", {**body, "tool_choice": c})["usage"]["prompt_tokens"] for c in ("auto", "none")]
    same(n[0], n[1])
    a = d.post("/v1/chat/completions", {**body, "tool_choice": "none"})["choices"][0]
    check("tool_calls" not in a["message"], a)


def test_auto_tools(s):
    """A call that the model need not make follows its tool's schema once it has begun, drafts or not; the text around it
    is free. Random weights are pushed into one by a bias."""
    tool = {"type": "function", "function": {"name": "paint", "parameters": {
        "type": "object", "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "n": {"type": "boolean"}},
        "required": ["colour", "n"], "additionalProperties": False}}}
    begin = s.post("/tokenize", {"content": "<|tool_call>"})["tokens"]
    same(len(begin), 1)
    body = {"messages": [{"role": "user", "content": "Paint."}], "temperature": 0, "max_tokens": 100, "tools": [tool],
            "parallel_tool_calls": False, "logit_bias": [[begin[0], 1000]], "reasoning_effort": "none"}
    for more in ({}, {"speculative": False}, {"tool_choice": "auto"}):
        c = s.post("/v1/chat/completions", {**body, **more})["choices"][0]
        same((c["finish_reason"], len(c["message"]["tool_calls"])), ("tool_calls", 1), c)
        call = c["message"]["tool_calls"][0]["function"]
        o = json.loads(call["arguments"])
        check(call["name"] == "paint" and o["colour"] in ("red", "green") and o["n"] in (True, False) and len(o) == 2, call)
    many = s.post("/v1/chat/completions", {**body, "parallel_tool_calls": True})["choices"][0]["message"]["tool_calls"]
    check(len(many) > 1 and all(m["function"]["name"] == "paint" for m in many), many)
    odd = {**tool, "function": {**tool["function"], "parameters": {"type": "object", "properties": {"a": {"pattern": "(?=x)"}}}}}
    same(s.call("POST", "/v1/chat/completions", {**body, "tools": [odd], "max_tokens": 4})[0], 200)


def test_counts(_):
    """Reasoning and draft tokens of the usage agree with the timings, in whole answers and streams."""
    d = server()
    a = d.post("/v1/chat/completions", CHAT)
    u, t = a["usage"], a["timings"]
    same(u["completion_tokens"], t["predicted_n"])
    same(u["completion_tokens_details"]["accepted_prediction_tokens"], t.get("draft_n_accepted", 0))
    events = d.stream("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
    same(events[-2][1]["usage"]["completion_tokens_details"]["reasoning_tokens"], u["completion_tokens_details"]["reasoning_tokens"])
    ids = d.post("/apply-template", {**CHAT, "with_tokens": True})["tokens"]
    same(len(ids), u["prompt_tokens"])


code = run(globals(), "-np", "2", "-c", "2048")
if demo:
    demo.stop()
sys.exit(code)
