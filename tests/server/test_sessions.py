"""`tandem serve` in use: a coding agent's session, in which each turn may compute only what is new, and the same greedy
request from every side at once, which must give the same text. Arguments: names of tests to run; without any, all."""
import json
import os
import random
import sys
import threading

from harness import DEMO, DEMO_DRAFT, DEMO_FOLDER, Failure, Server, check, run, same

# ---- a coding agent

RULES = "Rule %d: read a file before it is changed, keep the style of the code around it, run test number %d after it. "
SYSTEM = "You are an agent that works on a repository with tools. " + "".join(RULES % (i, i) for i in range(40))
VERBS = ("read", "write", "edit", "list", "find", "grep", "move", "copy", "delete", "run", "build", "test")


def agent_tools():
    """Two dozen declarations; every argument is a choice, so that a model of random weights ends its calls."""
    tools = []
    for i in range(24):
        name = "%s_%s" % (VERBS[i % 12], "file" if i < 12 else "tree")
        properties = {"path": {"type": "string", "enum": ["src/a%d.c" % i, "src/b%d.c" % i], "description": "Where to " + name},
                      "mode": {"type": "string", "enum": ["fast", "whole"], "description": "How much of it"}}
        tools.append({"name": name, "description": "Does %s in the repository, in the mode that is given." % name,
                      "input_schema": {"type": "object", "properties": properties, "required": ["path", "mode"],
                                       "additionalProperties": False}})
    return tools


class Agent:
    """The client's side of a session against /v1/messages."""

    def __init__(self, s, stream, bias, thinking):
        self.s, self.stream = s, stream
        self.messages = [{"role": "user", "content": "Rename the function open_all in the library."}]
        self.body = {"model": "m", "max_tokens": 300, "temperature": 0, "tools": agent_tools(),
                     "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "logit_bias": bias}
        if thinking:
            self.body["thinking"] = {"type": "enabled", "budget_tokens": 8}

    def request(self, turn):
        # The first block is what Claude Code sends: it changes with every request.
        header = "x-anthropic-billing-header: cc_version=2.1.%d; cch=%05x;" % (7, 0xabc + turn * 7919)
        system = [{"type": "text", "text": header},
                  {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
        return {**self.body, "system": system, "messages": self.messages}

    def ask(self, turn):
        """(content blocks, usage, tokens of the prompt)"""
        body = self.request(turn)
        n = self.s.post("/v1/messages/count_tokens", body)["input_tokens"]
        if not self.stream:
            m = self.s.post("/v1/messages?beta=true", body)
            return m["content"], m["stop_reason"], m["usage"], n
        blocks, reason, usage = [], None, {}
        for _, e in self.s.stream("/v1/messages?beta=true", body):
            if e["type"] == "content_block_start":
                blocks.append({**e["content_block"], "partial": ""})
            elif e["type"] == "content_block_delta":
                d = e["delta"]
                blocks[-1]["partial"] += d.get("partial_json") or d.get("text") or d.get("thinking") or ""
            elif e["type"] == "message_delta":
                reason, usage = e["delta"]["stop_reason"], e["usage"]
        for b in blocks:
            text = b.pop("partial")
            b.update({"input": json.loads(text)} if b["type"] == "tool_use" else {b["type"]: text})
        return blocks, reason, usage, n

    def answer(self, content, turn):
        """The agent did what was asked, and says so."""
        results = [{"type": "tool_result", "tool_use_id": b["id"], "content": "%d lines, no error in part %d" % (turn * 3, turn)}
                   for b in content if b["type"] == "tool_use"]
        self.messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]


def session(s, stream, turns, helpers, thinking=False):
    """Each turn may compute what came in since the last one: the tool's result and the turn's markers, no more."""
    a = Agent(s, stream, s.no_blanks(), thinking)
    before = 0  # tokens of the last prompt and its answer: all of them are in the cache
    for turn in range(turns):
        content, reason, usage, n = a.ask(turn)
        same(reason, "tool_use", "turn", turn, content)
        cached = usage["cache_read_input_tokens"]
        same(cached + usage["input_tokens"], n, "the prompt's tokens, turn", turn)
        if turn == 0:
            check(n > 4000, "the session begins with", n, "tokens only")
        else:
            # One token is always computed again; the last token of an answer is not in the cache.
            check(cached >= before - 2, "turn", turn, "reuses", cached, "of", before, "tokens, prompt of", n)
            check(usage["input_tokens"] < 80, "turn", turn, "computes", usage["input_tokens"], "tokens")
        before = n + usage["output_tokens"]
        a.answer(content, turn)
        if helpers:  # a small request of the same client, such as a title: it must not take the session's cache
            s.post("/v1/messages", {"model": "small", "max_tokens": 4, "messages": [
                {"role": "user", "content": "Give a title for part %d of this." % turn}]})
    return before


def test_agent(s):
    session(s, stream=False, turns=12, helpers=False)


def test_agent_streams(s):
    session(s, stream=True, turns=12, helpers=True)


def test_agents_together(s):
    """Two sessions at once: the slots keep apart what belongs to whom."""
    errors = []

    def work(stream):
        try:
            session(s, stream, turns=6, helpers=False)
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(x,)) for x in (False, True)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    if errors:
        raise errors[0]


def test_lost_prefix(s):
    """The check above can fail: another first word leaves nothing to reuse."""
    a = Agent(s, False, s.no_blanks(), False)
    a.ask(0)
    a.body["system"] = None
    request = a.request
    a.request = lambda turn: {**request(turn), "system": "Other. " + SYSTEM}
    _, _, usage, n = a.ask(1)
    check(usage["cache_read_input_tokens"] < 100 < usage["input_tokens"], usage)


# ---- identity

def variants(prompt, messages, ids):
    """(path, body, stream, text of a whole answer, text of an event) that must all say the same."""
    plain = {"temperature": 0, "n_predict": 40, "ignore_eos": True}
    chat = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "messages": messages,
            "chat_template_kwargs": {"enable_thinking": False}}
    changes = [{}, {"cache_prompt": False}, {"speculative": False}, {"speculative": {"n_max": 1}}, {"speculative": {"n_max": 8}},
               {"id_slot": 0}, {"id_slot": 2, "speculative": False}, {"id_slot": 3, "cache_prompt": False}]
    for stream in (False, True):
        for c in changes:
            yield "text", "/completion", {**plain, "prompt": prompt, **c}, stream
            yield "text", "/completion", {**plain, "prompt": ids, **c}, stream
            yield "text", "/v1/completions", {**plain, "prompt": prompt, **c}, stream
            yield "chat", "/v1/chat/completions", {**chat, **c}, stream
            yield "chat", "/v1/messages", {**chat, **c}, stream
            yield "chat", "/v1/responses", {"input": messages, "temperature": 0, "max_output_tokens": 40, "ignore_eos": True,
                                            "reasoning": {"effort": "none"}, **c}, stream


def text_of(path, answer):
    if path == "/completion":
        return answer["content"]
    if path == "/v1/completions":
        return answer["choices"][0]["text"]
    if path == "/v1/chat/completions":
        return answer["choices"][0]["message"]["content"]
    parts = answer["content"] if path == "/v1/messages" else [c for o in answer["output"] if o["type"] == "message"
                                                              for c in o["content"]]
    return "".join(p["text"] for p in parts)


def text_of_event(path, e):
    if e == "[DONE]":
        return ""
    if path == "/completion":
        return e["content"]
    if path == "/v1/completions":
        return "".join(c["text"] for c in e["choices"])
    if path == "/v1/chat/completions":
        return "".join(c["delta"].get("content") or "" for c in e["choices"])
    if path == "/v1/messages":
        return e.get("delta", {}).get("text", "") if e["type"] == "content_block_delta" else ""
    return e["delta"] if e["type"] == "response.output_text.delta" else ""


def text_from(s, path, body, stream):
    if stream:
        return "".join(text_of_event(path, e) for _, e in s.stream(path, body))
    return text_of(path, s.post(path, body))


def identity_jobs(s, cases):
    """[(wanted text, path, body, stream)]; what is wanted was computed alone, without drafts and cache."""
    jobs = []
    for messages in cases:
        prompt = s.post("/apply-template", {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}})["prompt"]
        ids = s.post("/tokenize", {"content": prompt, "add_special": True})["tokens"]
        wanted = {}
        for kind, path, body, stream in variants(prompt, messages, ids):
            if kind not in wanted:
                wanted[kind] = text_from(s, path, {**body, "speculative": False, "cache_prompt": False}, False)
            jobs.append((wanted[kind], path, body, stream))
    return jobs


def run_mixed(s, jobs, clients):
    """All jobs, in an order of their own, by so many clients at once."""
    random.Random(7).shuffle(jobs)
    left, wrong, lock = list(jobs), [], threading.Lock()

    def client():
        while True:
            with lock:
                if not left or wrong:
                    return
                wanted, path, body, stream = left.pop()
            try:
                got = text_from(s, path, body, stream)
                if got != wanted:
                    raise Failure("%s %s stream %s\n  gives  %r\n  alone  %r" % (path, json.dumps(body)[:300], stream, got, wanted))
            except Exception as e:
                with lock:
                    wrong.append(e)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    if wrong:
        raise wrong[0]


def test_identity(s):
    """The demo pair, whose drafts are neither always right nor always wrong, with a depth that follows the clock."""
    with open(os.path.join(DEMO_FOLDER, "prompts.json")) as f:
        prompts = [p["messages"] for p in json.load(f) if not p["tools"] and len(p["messages"]) == 1]
    long = "".join(m["content"] + " " for ms in prompts for m in ms)
    cases = prompts[::24] + [[{"role": "user", "content": long[:1500] + "Which of these is the last?"}],
                            [{"role": "user", "content": long[:1500] + "Which of these is the first?"}]]
    with Server(DEMO, "-md", DEMO_DRAFT, "-np", "4", "-ub", "64") as own:
        jobs = identity_jobs(own, cases)
        check(len({w for w, *_ in jobs}) > len(cases), "the prompts have one answer")
        run_mixed(own, jobs, 8)


sys.exit(run(globals(), "-np", "4", "-c", "16384"))
