#!/usr/bin/env python3
"""Load on a server that speaks llama-server's /completion: throughput, time to first token, gaps between tokens, fairness.

Every stream asks again as soon as it is answered. After a warm-up, what arrives during a window is counted; then the
connections are closed. With --long a second window follows, in which one more client sends one long prompt after the
other: the difference is what a long prompt does to its neighbours. Only Python's standard library; the load runs in
one thread and takes processor time from a server on the same machine (printed as "client").

Example:  load.py http://127.0.0.1:8080 --streams 1,4,16,64 --prompts models/demo/prompts.json
"""
import argparse
import asyncio
import json
import random
import sys
import time
import urllib.parse


def arguments():
    p = argparse.ArgumentParser(description="Load on /completion of a running server.")
    p.add_argument("url")
    p.add_argument("--key", default="", help="API key")
    p.add_argument("--streams", default="1,4,16,64", help="concurrent streams, one row each (%(default)s)")
    p.add_argument("--seconds", type=float, default=10, help="length of a window (%(default)s)")
    p.add_argument("--warm", type=float, default=1, help="seconds before the window (%(default)s)")
    p.add_argument("--tokens", type=int, default=64, help="tokens per answer (%(default)s)")
    p.add_argument("--prompts", help="JSON file: a list of strings, or of objects with \"prompt\"; else random tokens")
    p.add_argument("--prompt-tokens", type=int, default=32, help="length of a random prompt (%(default)s)")
    p.add_argument("--vocab", type=int, default=2048, help="random tokens are below this and from 512 (%(default)s)")
    p.add_argument("--long", type=int, default=0, help="tokens of the long prompts; 0: no second window (%(default)s)")
    p.add_argument("--no-drafts", action="store_true", help="\"speculative\": false in every request")
    p.add_argument("--natural-end", action="store_true", help="answers may end before --tokens")
    p.add_argument("--json", help="write the figures to this file, too")
    p.add_argument("--quiet", action="store_true", help="no table")
    return p.parse_args()


class Client:
    """Streams requests and notes what arrives when."""

    def __init__(self, o):
        u = urllib.parse.urlsplit(o.url)
        self.o, self.host, self.port = o, u.hostname, u.port or 80
        self.path = u.path.rstrip("/") + "/completion"
        self.random = random.Random(1)
        self.texts = None
        if o.prompts:
            with open(o.prompts) as f:
                self.texts = [t["prompt"] if isinstance(t, dict) else t for t in json.load(f)]

    def random_prompt(self, n):
        return [self.random.randrange(512, self.o.vocab) for _ in range(n)]

    def body(self, prompt, n_predict):
        b = {"prompt": prompt, "n_predict": n_predict, "temperature": 0, "stream": True, "cache_prompt": False,
             "return_tokens": True, "ignore_eos": not self.o.natural_end}
        if self.o.no_drafts:
            b["speculative"] = False
        return b

    async def events(self, body):
        """The JSON objects of one streamed answer, each with its time of arrival."""
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 22)
        try:
            text = json.dumps(body).encode()
            head = "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\n" % (
                self.path, self.host)
            if self.o.key:
                head += "Authorization: Bearer %s\r\n" % self.o.key
            writer.write((head + "Content-Length: %d\r\n\r\n" % len(text)).encode() + text)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if " 200 " not in head.split("\r\n")[0]:
                raise RuntimeError(head.split("\r\n")[0] + " " + (await reader.read(2000)).decode("latin-1"))
            rest = b""
            while True:
                n = int(await reader.readline(), 16)
                if n == 0:
                    return
                rest += (await reader.readexactly(n + 2))[:-2]
                now = time.monotonic()
                *whole, rest = rest.split(b"\n\n")
                for event in whole:
                    if event.startswith(b"data: {"):
                        yield now, json.loads(event[6:])
        finally:
            writer.close()


class Window:
    """What arrived between `begin` and `end`."""

    def __init__(self, streams):
        self.begin = self.end = 0.0
        self.tokens = [0] * streams
        self.first, self.gaps, self.long_first = [], [], []
        self.drafted = self.accepted = self.done = 0
        self.failures = []

    def holds(self, t):
        return self.begin <= t < self.end


async def stream(client, window, i, n_predict, long=0):
    """One client that asks again and again."""
    while True:
        prompt = client.random_prompt(long) if long else (
            client.random.choice(client.texts) if client.texts else client.random_prompt(client.o.prompt_tokens))
        asked, last = time.monotonic(), None
        try:
            async for now, o in client.events(client.body(prompt, n_predict)):
                if "error" in o:
                    raise RuntimeError(json.dumps(o))
                n = len(o.get("tokens") or [0]) if not o.get("stop") else 0
                if o.get("stop"):
                    note_end(window, now, o.get("timings") or {})
                if n and not long:
                    note_tokens(window, i, n, asked, last, now)
                elif n and last is None and window.holds(now):
                    window.long_first.append(now - asked)
                if n:
                    last = now
        except asyncio.CancelledError:
            raise
        except (RuntimeError, OSError, ValueError, asyncio.IncompleteReadError) as e:
            window.failures.append(str(e)[:200])
            await asyncio.sleep(0.1)


def note_tokens(window, i, n, asked, last, now):
    if not window.holds(now):
        return
    window.tokens[i] += n
    if last is None:
        window.first.append(now - asked)
    else:
        window.gaps.append(now - last)


def note_end(window, now, timings):
    if window.holds(now):
        window.done += 1
        window.drafted += timings.get("draft_n", 0)
        window.accepted += timings.get("draft_n_accepted", 0)


async def measure(client, streams, long):
    o = client.o
    window = Window(streams)
    window.begin = time.monotonic() + o.warm
    window.end = window.begin + o.seconds
    tasks = [asyncio.create_task(stream(client, window, i, o.tokens)) for i in range(streams)]
    if long:
        tasks.append(asyncio.create_task(stream(client, window, 0, 4, long)))
    await asyncio.sleep(window.begin - time.monotonic())
    busy = time.process_time()
    await asyncio.sleep(window.end - time.monotonic())
    busy = time.process_time() - busy
    for t in tasks:
        t.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return summary(window, streams, long, busy / o.seconds)


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p / 100 * len(values)))] * 1e3 if values else float("nan")


def summary(w, streams, long, client_share):
    total = sum(w.tokens)
    return {"streams": streams, "long": long, "tokens_per_second": total / (w.end - w.begin), "answers": w.done,
            "first_ms_p50": percentile(w.first, 50), "first_ms_p99": percentile(w.first, 99),
            "gap_ms_p50": percentile(w.gaps, 50), "gap_ms_p99": percentile(w.gaps, 99),
            "gap_ms_max": percentile(w.gaps, 100),
            # The slowest stream's share of the mean: 1 is fair.
            "least_share": min(w.tokens) * streams / total if total else 0,
            "accepted": w.accepted / w.drafted if w.drafted else 0, "long_first_ms": percentile(w.long_first, 50),
            "long_answers": len(w.long_first), "client_share": client_share, "failures": w.failures}


COLUMNS = (("streams", "%d", "streams"), ("long", "%d", "long"), ("tokens/s", "%.1f", "tokens_per_second"),
           ("answers", "%d", "answers"), ("first p50", "%.1f", "first_ms_p50"), ("p99 ms", "%.1f", "first_ms_p99"),
           ("gap p50", "%.2f", "gap_ms_p50"), ("p99", "%.2f", "gap_ms_p99"), ("max ms", "%.1f", "gap_ms_max"),
           ("least", "%.2f", "least_share"), ("accepted", "%.2f", "accepted"), ("long first ms", "%.0f", "long_first_ms"),
           ("client", "%.2f", "client_share"), ("failed", "%s", "n_failed"))


def print_row(row):
    row = {**row, "n_failed": len(row["failures"])}
    print("| " + " | ".join((f % row[k]).rjust(len(h)) for h, f, k in COLUMNS) + " |", flush=True)
    for text in sorted(set(row["failures"]))[:3]:
        print("  ", text, file=sys.stderr)


async def main():
    o = arguments()
    client = Client(o)
    rows = []
    if not o.quiet:
        print("| " + " | ".join(h for h, _, _ in COLUMNS) + " |")
        print("|" + "|".join(" " + "-" * (len(h) - 1) + ": " for h, _, _ in COLUMNS) + "|")
    for n in (int(x) for x in o.streams.split(",")):
        for long in [0] + [o.long] * (o.long > 0):
            rows.append(await measure(client, n, long))
            if not o.quiet:
                print_row(rows[-1])
            await asyncio.sleep(0.5)  # the slots of the closed connections become free
    if o.json:
        with open(o.json, "w") as f:
            json.dump(rows, f, indent=1)
    return 1 if any(r["failures"] for r in rows) else 0


sys.exit(asyncio.run(main()))
