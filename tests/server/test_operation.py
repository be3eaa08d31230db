"""`tandem serve` in operation: TLS, Unix sockets, prefixes, origins, limits of connections, queue and time, presets, slot files,
full contexts, moved chunks. Arguments: names of tests to run; without any, all."""
import http.client
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

from harness import BINARY, DEMO, DEMO_DRAFT, Server, check, run, same

BODY = {"prompt": "The quick brown fox", "temperature": 0, "n_predict": 8, "ignore_eos": True}
LONG = {**BODY, "n_predict": 3000}
MESSAGES = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}


# ---- ways in


def test_tls(s):
    if not shutil.which("openssl"):
        print("     without openssl nothing makes a certificate")
        return
    key, cert = (os.path.join(s.folder, n) for n in ("key.pem", "cert.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    context = ssl.create_default_context(cafile=cert)

    class Secure(Server):
        def connect(self, timeout=20):
            return http.client.HTTPSConnection("localhost", self.port, timeout=timeout, context=context)

    own = Secure(s.model, "-np", "1", "-c", "512", "--ssl-key-file", key, "--ssl-cert-file", cert)
    try:
        text = s.post("/completion", {**BODY, "speculative": False})["content"]
        same(own.post("/completion", BODY)["content"], text)
        same("".join(e["content"] for _, e in own.stream("/completion", BODY)), text)
        with socket.create_connection(("127.0.0.1", own.port)) as k:  # plain HTTP is no way in
            k.settimeout(10)
            k.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            try:
                check(b"200" not in k.recv(100), "plain HTTP is answered")
            except ConnectionResetError:
                pass
        c = http.client.HTTPSConnection("localhost", own.port, timeout=10, context=ssl.create_default_context())
        try:
            c.request("GET", "/health")
            check(False, "a certificate nobody vouches for is believed: the test checks nothing")
        except ssl.SSLCertVerificationError:
            pass
    finally:
        own.stop()
    for flags in (["--ssl-key-file", key], ["--ssl-key-file", cert, "--ssl-cert-file", key],
                  ["--ssl-key-file", os.devnull, "--ssl-cert-file", os.devnull], ["--ssl-key-file", key, "--ssl-cert-file", "/none"]):
        r = subprocess.run([BINARY, "serve", "--port", "0", "-m", s.model, *flags], capture_output=True, timeout=60)
        same(r.returncode, 1, flags)


def test_unix_socket(s):
    path = os.path.join(s.folder, "tandem.sock")

    class Local(Server):
        def connect(self, timeout=20):
            c = http.client.HTTPConnection("localhost", timeout=timeout)
            c.sock = socket.socket(socket.AF_UNIX)
            c.sock.settimeout(timeout)
            c.sock.connect(path)
            return c

    deadline = time.monotonic() + 60
    process = subprocess.Popen([BINARY, "serve", "--host", path, "-m", s.model, "-np", "1", "-c", "512"], stderr=subprocess.PIPE)
    try:
        own = object.__new__(Local)
        while True:
            check(time.monotonic() < deadline and process.poll() is None, "not ready")
            try:
                if own.call("GET", "/health")[0] == 200:
                    break
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            time.sleep(0.02)
        same(own.post("/completion", BODY)["tokens_predicted"], 8)
        same(own.call("POST", "/completion", {"prompt": 5})[0], 400)
        process.terminate()
        same(process.wait(20), 0)
        check(not os.path.exists(path), "the socket stays")
    finally:
        process.kill()
        process.stderr.close()


def test_prefix_and_headers(s):
    with prefixed(s) as own:
        status, headers, _ = own.call("GET", "/x/health", headers={"Origin": "https://a.example"})
        same((status, headers["Server"], headers["Access-Control-Allow-Origin"]), (200, "Other", "https://a.example"))
        check("Access-Control-Allow-Credentials" not in headers, headers)
        status, headers, _ = own.call("OPTIONS", "/x/completion", headers={"Origin": "https://a.example"})
        same((status, headers["Access-Control-Allow-Methods"], headers["Access-Control-Allow-Headers"]), (200, "GET", "x-one"))
        for path in ("/health", "/xhealth", "/completion"):
            same(own.call("GET", path)[0], 404, path)
        model = own.get("/x/v1/models")["data"][0]
        same((model["id"], model["aliases"], model["tags"]), ("first", ["first", "second"], ["small", "test"]))
        same(own.get("/x/v1/models/second")["id"], "first")
        tags = own.get("/x/api/tags")["models"][0]
        same((tags["name"], tags["details"]["format"]), ("first", "gguf"))
        check(own.post("/x/api/show", {"model": "first"})["model_info"]["gemma4.context_length"] > 0, "/api/show")
        status, headers, body = own.call("POST", "/x/v1/messages/count_tokens", MESSAGES)
        check(status == 200 and headers["request-id"], headers)
        same(own.post("/x/completion", {**BODY, "model": "anything"})["model"], "anything")


def prefixed(s):
    """A server under a prefix, where /health answers there only."""

    class Under(Server):
        ready = False

        def call(self, method, path, *more, **named):
            return super().call(method, "/x/health" if path == "/health" and not self.ready else path, *more, **named)

    own = Under(s.model, "-np", "1", "-c", "512", "--api-prefix", "/x", "--server-header", "Other", "--cors-origins",
                "https://a.example", "--no-cors-credentials", "--cors-methods", "GET", "--cors-headers", "x-one",
                "--alias", "first,second", "--tags", "small,test")
    own.ready = True
    return own


def test_loading(s):
    """Before it is ready the server says so, and names its model."""
    process = subprocess.Popen([BINARY, "serve", "--port", "0", "-m", s.model, "--check-tensors"], stderr=subprocess.PIPE, text=True)
    try:
        port = int(process.stderr.readline().split("port ")[1].split(",")[0])
        seen = []
        for _ in range(2000):
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            c.request("GET", "/v1/models")
            models = json.loads(c.getresponse().read())
            c.request("GET", "/health")
            r = c.getresponse()
            seen.append((r.status, models["data"][0]["meta"] is None))
            r.read()
            c.close()
            if r.status == 200:
                break
        same(seen[-1][0], 200)
        check(all(status in (200, 503) for status, _ in seen), seen)
    finally:
        process.terminate()
        same(process.wait(20), 0)
        process.stderr.close()


# ---- limits


def test_large_in_dialects(s):
    with Server(s.model, "-np", "1", "-c", "512", "--max-body-mb", "1") as own:
        for path, kind in (("/v1/messages", "request_too_large"), ("/v1/chat/completions", "invalid_request_error")):
            with socket.create_connection(("127.0.0.1", own.port)) as k:
                k.settimeout(10)
                k.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n" % path.encode())
                answer = k.recv(8000).decode()
                check(" 413 " in answer and '"type":"%s"' % kind in answer, path, answer)
                same("\r\nrequest-id: " in answer.lower(), path == "/v1/messages", path)


def test_connections(s):
    with Server(s.model, "-np", "1", "-c", "512", "--max-connections", "4") as own:
        held = [socket.create_connection(("127.0.0.1", own.port)) for _ in range(8)]
        time.sleep(0.2)
        alive = 0
        for k in held:
            k.settimeout(1)
            try:
                k.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                alive += b" 200 " in k.recv(2000)
            except OSError:
                pass
        for k in held:
            k.close()
        check(0 < alive <= 4, alive, "connections are served")
        time.sleep(0.2)
        same(own.get("/health"), {"status": "ok"})


def test_queue(s):
    """One slot: a second request waits (its stream says so), a third is refused; too long a wait ends."""
    with Server(s.model, "-np", "1", "-c", "4096", "--queue-max", "1", "--queue-timeout", "3") as own:
        busy = own.connect()
        busy.request("POST", "/completion", json.dumps({**LONG, "stream": True, "n_predict": 4000}).encode())
        own.wait_busy(0)
        first = own.connect()
        first.request("POST", "/completion", json.dumps({**BODY, "stream": True}).encode())
        while own.get("/health?verbose=1")["queued"] == 0:
            time.sleep(0.01)
        status, headers, answer = own.call("POST", "/v1/chat/completions", MESSAGES)
        same((status, headers["Retry-After"], answer["error"]["type"]), (429, "1", "rate_limit_error"))
        same(own.call("POST", "/v1/messages", MESSAGES)[2]["error"]["type"], "rate_limit_error")
        r = first.getresponse()
        same(r.status, 200)
        text = r.read().decode()
        check(text.startswith(": "), "no word while it waits:", text[:80])
        last = text.rstrip("\n").rsplit("data: ", 1)[1]
        check('"stop":true' in last or json.loads(last)["error"]["code"] == 503, last)
        busy.close()
        own.wait_idle(5)


def test_request_timeout(s):
    status, _, answer = s.call("POST", "/completion", {**LONG, "n_predict": 1500, "speculative": False}, {"x-request-timeout-ms": "1"})
    same(status, 408, answer)
    s.wait_idle(5)
    same(s.call("POST", "/completion", BODY, {"x-request-timeout-ms": "100000"})[0], 200)


def test_presets(s):
    for name, n_max, slots, n_ctx in (("e2b", 4, 4, 32768), ("31b", 6, 2, 16384), ("26b-a4b", 6, 4, 32768), ("quality", 3, 4, None)):
        with Server(s.model, "-md", s.draft, "--preset", name) as own:
            p = own.get("/props")
            same((p["speculative"]["n_max"], p["total_slots"]), (n_max, slots), name)
            if n_ctx:
                same(p["default_generation_settings"]["n_ctx"], n_ctx, name)
    with Server(s.model, "-md", s.draft, "--preset", "31b", "-np", "3", "-c", "1024", "--spec-draft-n-max", "2") as own:
        p = own.get("/props")
        same((p["speculative"]["n_max"], p["total_slots"], p["default_generation_settings"]["n_ctx"]), (2, 3, 1024))
    same(subprocess.run([BINARY, "serve", "-m", s.model, "--preset", "7b"], capture_output=True).returncode, 1)


def test_defaults(_):
    """What the command line says holds where a request does not."""
    ask = {"messages": [{"role": "user", "content": "What is 17 plus 25? Think about it."}], "temperature": 0}
    with Server(DEMO, "-np", "1", "-c", "1024", "--chat-template-kwargs", '{"enable_thinking": false}', "-n", "5",
                     "--reasoning-budget", "2") as own:
        a = own.post("/v1/chat/completions", ask)
        same((a["usage"]["completion_tokens"], "reasoning_content" in a["choices"][0]["message"]), (5, False))
        a = own.post("/v1/chat/completions", {**ask, "max_tokens": 60, "think": True})
        same(a["usage"]["completion_tokens_details"]["reasoning_tokens"], 2)
        a = own.post("/v1/chat/completions", {**ask, "max_tokens": 60, "think": True, "reasoning_budget": -1})
        check(a["usage"]["completion_tokens_details"]["reasoning_tokens"] > 2, a["usage"])
        same(own.post("/completion", {"prompt": "a", "ignore_eos": True})["tokens_predicted"], 5)


# ---- slots


def test_slot_files(s):
    """A file that is cut, longer, of another model or not one at all is a 400, and the server goes on."""
    body = {**BODY, "prompt": "Some text to be kept in a file.", "id_slot": 1, "n_predict": 24}
    text = s.post("/completion", {**body, "cache_prompt": False})["content"]
    saved = s.post("/slots/1?action=save", {"filename": "good.slot"})
    with open(os.path.join(s.folder, "good.slot"), "rb") as f:
        good = f.read()
    same(len(good), saved["n_written"])
    bad = {"empty": b"", "short": good[:20], "cut": good[:-1], "half": good[:len(good) // 2], "long": good + b"x",
           "magic": b"X" + good[1:], "tokens": good[:16] + struct.pack("<Q", 2**40) + good[24:],
           "bytes": good[:24] + struct.pack("<Q", 2**63) + good[32:], "text": b"not a slot at all" * 100}
    bad.update({"bit%d" % i: good[:i] + bytes([good[i] ^ 1]) + good[i + 1:] for i in range(0, len(good), max(1, len(good) // 23))})
    for name, data in bad.items():
        with open(os.path.join(s.folder, name + ".slot"), "wb") as f:
            f.write(data)
        status, _, answer = s.call("POST", "/slots/1?action=restore", {"filename": name + ".slot"})
        same((status, answer["error"]["type"]), (400, "invalid_request_error"), name)
    with Server(DEMO, "-np", "1", "-c", "512", "--slot-save-path", s.folder) as other:
        same(other.call("POST", "/slots/0?action=restore", {"filename": "good.slot"})[0], 400)
        check("another model" in other.call("POST", "/slots/0?action=restore", {"filename": "good.slot"})[2]["error"]["message"], "")
    s.post("/slots/1?action=erase", {})
    s.post("/slots/1?action=restore", {"filename": "good.slot"})
    again = s.post("/completion", body)
    same((again["content"], again["timings"]["cache_n"] > 0), (text, True))
    os.chmod(s.folder, 0o500)
    try:
        if os.geteuid():  # root writes everywhere
            same(s.call("POST", "/slots/1?action=save", {"filename": "new.slot"})[0], 400)
    finally:
        os.chmod(s.folder, 0o700)
    for path in ("/slots/0?action=save", "/slots/0?action=erase"):
        with Server(s.model, "-np", "1", "-c", "512") as bare:
            same(bare.call("POST", path, {"filename": "a"})[0], 501, path)


def test_busy_slot(s):
    """An action on a slot that works waits for it, and holds nobody else up."""
    c = s.connect()
    c.request("POST", "/completion", json.dumps({**LONG, "id_slot": 1, "n_predict": 600, "stream": True}).encode())
    s.wait_busy(1)
    done = []
    threads = [threading.Thread(target=lambda: done.append(s.post("/slots/1?action=save", {"filename": "busy%d.slot" % i})))
               for i in range(4)]
    [t.start() for t in threads]
    other = s.post("/slots/0?action=erase", {})
    same(other["id_slot"], 0)
    check(s.get("/slots")[1]["is_processing"] and not done, "the slot was saved while it worked")
    c.getresponse().read()
    c.close()
    [t.join(30) for t in threads]
    same([d["n_saved"] > 600 for d in done], [True] * 4)


def test_disconnect_in_prompt(s):
    """Who leaves while his prompt is read gives the slot back within a step."""
    with Server(s.model, "-np", "1", "-c", "16384", "-ub", "32", "-b", "32") as own:
        c = own.connect()
        c.request("POST", "/completion", json.dumps({**BODY, "prompt": [7 + i % 50 for i in range(16000)]}).encode())
        while own.get("/slots")[0]["state"] != "prompt":
            time.sleep(0.002)
        c.sock.shutdown(socket.SHUT_RDWR)
        c.close()
        took = own.wait_idle(10)
        check(own.get("/slots")[0]["n_cached_tokens"] < 16000, "the whole prompt was read")
        check(took < 5, took)


# ---- contexts


def test_overflow(s):
    n_ctx = s.get("/props")["default_generation_settings"]["n_ctx"]
    prompt = [7 + i % 50 for i in range(n_ctx - 20)]
    for drafts in (True, False):
        a = s.post("/completion", {**BODY, "prompt": prompt, "n_predict": 500, "speculative": drafts})
        check(a["truncated"] and a["stop_type"] == "limit" and 0 < a["tokens_predicted"] <= 21, a["tokens_predicted"])
    a = s.post("/completion", {**BODY, "prompt": prompt, "n_predict": -1})
    same(a["truncated"], True)
    m = s.post("/v1/messages", {**MESSAGES, "max_tokens": 100000, "ignore_eos": True})
    same((m["stop_reason"], m["usage"]["output_tokens"] > 100), ("model_context_window_exceeded", True))
    c = s.post("/v1/chat/completions", {**MESSAGES, "max_tokens": 100000, "ignore_eos": True})
    same(c["choices"][0]["finish_reason"], "length")
    for path, body in (("/v1/chat/completions", MESSAGES), ("/v1/responses", {"input": "x"})):
        big = json.loads(json.dumps(body).replace("Hello", "word " * n_ctx).replace('"x"', '"%s"' % ("word " * n_ctx)))
        status, _, answer = s.call("POST", path, big)
        same((status, answer["error"]["type"]), (400, "exceed_context_size_error"), path)


def test_shift(_):
    """With --context-shift an answer goes on past the end; drafts change nothing."""
    for types in (("f16", "f16"), ("q8_0", "turbo4")):
        with Server(DEMO, "-md", DEMO_DRAFT, "-np", "1", "-c", "256", "--context-shift", "-ctk", types[0], "-ctv", types[1]) as own:
            body = {"prompt": "Once upon a time there was a king. " * 4, "temperature": 0, "n_predict": 500, "ignore_eos": True, "n_keep": 4}
            a = own.post("/completion", {**body, "cache_prompt": False})
            same((a["tokens_predicted"], a["truncated"]), (500, True))
            same(own.post("/completion", {**body, "cache_prompt": False, "speculative": False})["content"], a["content"], types)
            b = own.post("/completion", {**body, "cache_prompt": False, "n_discard": 16})
            same(b["tokens_predicted"], 500)
            # Any number to keep is cut to what fits; without a limit the end is the trained context, not a round later.
            c = own.post("/completion", {**body, "n_predict": 300, "n_keep": 2**31 - 1, "cache_prompt": False})
            same((c["tokens_predicted"], c["truncated"]), (300, True))
            if types[0] == "f16":
                trained = own.get("/v1/models")["data"][0]["meta"]["n_ctx_train"]
                same(own.post("/completion", {**body, "n_predict": -1})["tokens_predicted"], trained)


def test_moved_chunks(_):
    """--cache-reuse: a part in the middle goes, what follows it is moved, in every type of cache."""
    head, gone, tail = "The king saw the cat. ", "A bird flew over the house. ", "The dog ran to the river and the girl ate the cake. " * 4
    for types in ("f32", "f16", "bf16", "q8_0", "q4_0", "turbo4", "turbo3", "turbo2"):
        for ram in ("0", "256") if types == "f16" else ("256",):
            with Server(DEMO, "-np", "1", "-c", "1024", "--cache-reuse", "16", "-ctk", types, "-ctv", types, "-cram", ram) as own:
                if ram == "0":
                    own.post("/completion", {**BODY, "prompt": head + gone + tail})
                    t = own.post("/completion", {**BODY, "prompt": head + tail, "n_cache_reuse": 0})["timings"]
                    check(t["cache_n"] < t["prompt_n"], types, t)
                own.post("/completion", {**BODY, "prompt": head + gone + tail})
                t = own.post("/completion", {**BODY, "prompt": head + tail})["timings"]
                check(t["cache_n"] > t["prompt_n"], types, t)


sys.exit(run(globals(), "-np", "2", "-c", "2048"))
