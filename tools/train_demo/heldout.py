#!/usr/bin/env python3
"""Writes prompts that are not in the training text (see gen.py) with the answers they should get.

usage: heldout.py OUT.json [--per 8] [--seed 99]

Each entry: name, kind, messages and tools (as an OpenAI client sends them), thinking, prompt (the rendered text, BOS
included), and one of
  answer    the exact text of the model's turn (with its thought, if thinking is on)
  call      {name, arguments} of the tool call it must make
  contains  words that must occur in the text
"""
import argparse, json
import gen


def as_json_tools(declared):
    return [{"type": "function", "function": {"name": n, "description": d, "parameters": {
        "type": "object", "properties": {p: {"type": t.lower()} for p, t in par}, "required": [p for p, _ in par]}}}
        for n, d, par in declared]


def messages(c, upto_step):
    out = [{"role": "system", "content": c["system"]}] if c["system"] else []
    for i, (user, steps) in enumerate(c["turns"]):
        last = i == len(c["turns"]) - 1
        out.append({"role": "user", "content": user})
        for j, s in enumerate(steps[:upto_step] if last else steps):
            if "call" in s:
                name, args = s["call"]
                m = {"role": "assistant", "content": "", "tool_calls": [{"id": f"call_{i}_{j}", "type": "function",
                     "function": {"name": name, "arguments": json.dumps(args)}}]}
                if c["thinking"] and last:
                    m["reasoning_content"] = s["thought"]
                out += [m, {"role": "tool", "tool_call_id": f"call_{i}_{j}", "content": s["result"]}]
            else:
                out.append({"role": "assistant", "content": s["content"]})
    return out


def entry(c, declared, step):
    pieces = gen.render(c)
    first = max(i for i, (t, _) in enumerate(pieces) if t.endswith("<turn|>\n<|turn>model\n")) + 1
    rest, k = pieces[first:], 0
    prompt = "".join(t for t, _ in pieces[:first])
    while step and k < len(rest):                            # pass over earlier steps of this turn: up to the result's end
        prompt += rest[k][0]
        if rest[k][0].endswith("<tool_response|>"):
            step -= 1
        k += 1
    if rest[k][0] == "<|channel>thought\n":
        prompt += rest[k][0]
        k += 1
    answer = ""
    while k < len(rest) and rest[k][1]:
        answer += rest[k][0]
        k += 1
    return prompt, answer


def make(seed, per):
    out, seen = [], set()
    plan = [("about", 1, 0), ("small", .5, 0), ("arith", 1.5, 0), ("lookup", 1.5, 0), ("long", .5, 0), ("fact", .75, 0), ("lists", 1.25, 0),
            ("code", 1, 0), ("story", 1, 0), ("tools", 1.5, 0), ("tools", 1, 1), ("my_name", .5, 0), ("unknown", .25, 0),
            ("arith", .75, 2), ("lookup", .75, 2), ("tools", .75, 2), ("tools", .75, 3)]
    for kind, share, mode in plan:
        g, n = gen.Gen(f"{seed}/{kind}/{mode}", held=True, mix=3), 0
        while n < max(1, round(per * share)):
            think, step = mode >= 2, mode & 1
            c = {"kind": kind, "system": "", "tools": [], "thinking": think, "turns": []}
            declared = []
            if kind == "tools":
                c["tools"], c["turns"] = g.tools()
                declared = g.declared
                if step and "call" not in c["turns"][-1][1][0]:
                    continue
            elif kind == "long":
                c["turns"] = g.lookup(g.r.randint(14, 24))
            else:
                c["turns"] = getattr(g, kind)()
                if kind == "arith" and " times " in c["turns"][0][0] or " * " in c["turns"][0][0]:
                    continue                                # the times table is not held out
                if kind == "story":
                    c["turns"] = c["turns"][:1]
            prompt, answer = entry(c, declared, step)
            if prompt in seen:
                continue
            seen.add(prompt)
            s = c["turns"][-1][1][step]
            name = kind + ("-think" if think else "") + ("-result" if step else "")
            e = {"name": f"{name}-{n + 1}", "kind": name, "thinking": think, "messages": messages(c, step), "tools": as_json_tools(declared),
                 "prompt": prompt}
            if "call" in s:
                e["call"] = {"name": s["call"][0], "arguments": s["call"][1]}
                e["answer"] = answer
            elif kind == "story":
                w = s["thought"].split()                    # A story about NAME the ANIMAL and a OBJECT,
                e["contains"] = [w[3], w[5], w[8].strip(",")]
            else:
                e["answer"] = answer
            out.append(e)
            n += 1
    return out


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--per", type=int, default=8)
    ap.add_argument("--seed", type=int, default=99)
    a = ap.parse_args()
    rows = make(a.seed, a.per)
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(rows, f, ensure_ascii=False, indent=1)
    print(len(rows), "prompts")
