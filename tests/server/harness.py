"""What the server tests share: a server process, requests and streams over http.client, a strict reader of /metrics.

Only Python's standard library: nothing here knows the server's code, so that it can disagree with it.
"""
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

BINARY = os.environ["TD_BINARY"]
DEMO_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "demo")
DEMO, DEMO_DRAFT = (os.path.join(DEMO_FOLDER, n) for n in ("tandem-demo.gguf", "tandem-demo-assistant.gguf"))


class Failure(Exception):
    pass


def check(condition, *what):
    if not condition:
        raise Failure(" ".join(repr(w) if not isinstance(w, str) else w for w in what))


def same(a, b, *what):
    check(a == b, *what, "\n  is     ", a, "\n  not    ", b)


class Server:
    """A server process; as a context it is stopped at the end, or killed when the test failed."""

    def __init__(self, model, *flags, env=None):
        self.log = tempfile.TemporaryFile()
        self.early = []  # answers of /health while it loaded
        self.process = subprocess.Popen(
            [BINARY, "serve", "--port", "0", "-m", model, *flags],
            stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})})
        try:
            self.port = self.wait_for(r"listening on .* port (\d+)", 60)
            deadline = time.monotonic() + 60
            while True:
                status, _, body = self.call("GET", "/health")
                if status == 200:
                    return
                self.early.append((status, body))
                check(time.monotonic() < deadline, "not ready:", self.text())
                time.sleep(0.01)
        except BaseException:
            self.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0]:
            self.kill()
        else:
            self.stop()

    def text(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def wait_for(self, pattern, seconds):
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text())
            if found:
                return int(found.group(1))
            check(self.process.poll() is None, "the server ended:", self.text())
            check(time.monotonic() < deadline, "the server says nothing:", self.text())
            time.sleep(0.01)

    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def call(self, method, path, body=None, headers=None, raw=None):
        """(status, headers, JSON or bytes)"""
        c = self.connect()
        try:
            data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
            c.request(method, path, data, headers or {})
            r = c.getresponse()
            text = r.read()
            if r.headers.get("Content-Type", "").startswith("application/json") and method != "HEAD":
                return r.status, r.headers, json.loads(text)
            return r.status, r.headers, text
        finally:
            c.close()

    def post(self, path, body, headers=None):
        status, _, answer = self.call("POST", path, body, headers)
        check(status == 200, path, "answers", status, answer)
        return answer

    def get(self, path, headers=None):
        status, _, answer = self.call("GET", path, None, headers)
        check(status == 200, path, "answers", status, answer)
        return answer

    def stream(self, path, body, headers=None):
        """A list of (event name or None, parsed data or "[DONE]"); the framing is checked."""
        c = self.connect()
        try:
            c.request("POST", path, json.dumps({**body, "stream": True}).encode(), headers or {})
            r = c.getresponse()
            text = r.read().decode("utf-8")
            check(r.status == 200, path, "answers", r.status, text)
            check(r.headers["Content-Type"].startswith("text/event-stream"), r.headers["Content-Type"])
            check(r.headers["Cache-Control"] == "no-cache", "Cache-Control")
        finally:
            c.close()
        return parse_events(text)

    def wait_idle(self, seconds):
        t0 = time.monotonic()
        while any(s["is_processing"] for s in self.get("/slots")):
            check(time.monotonic() - t0 < seconds, "a slot is still busy after", seconds)
            time.sleep(0.005)
        return time.monotonic() - t0

    def wait_busy(self, slot, decoded=1, seconds=20):
        t0 = time.monotonic()
        while True:
            s = self.get("/slots")[slot]
            if s["is_processing"] and s["next_token"][0]["n_decoded"] >= decoded:
                return
            check(time.monotonic() - t0 < seconds, "slot never gets busy")
            time.sleep(0.002)

    def no_blanks(self):
        """Random weights like blanks, which JSON allows between its parts: with this "logit_bias" answers stay short."""
        tab = self.post("/tokenize", {"content": "\t"})["tokens"][0]  # a byte token, as tabs have no other
        ids = {tab, tab + 1, tab + 4, tab + 23}
        for c in "\t\n\r ":
            for n in range(1, 33):
                ids.update(self.post("/tokenize", {"content": c * n})["tokens"])
        return [[i, False] for i in sorted(ids)]

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds=30):
        if self.process.poll() is None:
            self.terminate()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure("the server does not stop: " + self.text())
        text = self.text()
        self.log.close()
        check(code == 0, "exit code", code, text)
        return text

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def parse_events(text):
    check(text.endswith("\n\n"), "the stream ends inside an event:", text[-80:])
    events = []
    for block in text[:-2].split("\n\n"):
        name, data = None, None
        for line in block.split("\n"):
            if line.startswith(":"):
                continue
            field, _, value = line.partition(": ")
            check(field in ("event", "data"), "a strange line:", line)
            if field == "event":
                name = value
            else:
                check(data is None, "two data lines")
                data = value if value == "[DONE]" else json.loads(value)
        if data is not None:
            events.append((name, data))
    return events


def parse_metrics(text):
    """Prometheus text format 0.0.4, strictly: {(name, labels): value}, {name: type}."""
    check(text.endswith("\n"), "the last line is not ended")
    types, helps, samples, current, closed = {}, set(), {}, None, set()
    name_re, value_re = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|Inf|NaN)"
    for line in text[:-1].split("\n"):
        m = re.fullmatch(r"# HELP (%s) (.*)" % name_re, line)
        if m:
            check(m[1] not in helps, "HELP twice:", m[1])
            helps.add(m[1])
            continue
        m = re.fullmatch(r"# TYPE (%s) (counter|gauge|histogram)" % name_re, line)
        if m:
            check(m[1] not in types, "TYPE twice:", m[1])
            types[m[1]] = m[2]
            if current:
                closed.add(current)
            current = m[1]
            continue
        m = re.fullmatch(r'(%s)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (%s)' %
                         (name_re, value_re), line)
        check(m, "not a line of the format:", line)
        family = m[1]
        if family not in types:
            family = re.sub(r"_(bucket|sum|count)$", "", family)
            check(types.get(family) == "histogram", "a sample without TYPE:", line)
        check(family == current, "a sample outside its family:", line)
        check((m[1], m[2]) not in samples, "a sample twice:", line)
        samples[m[1], m[2] or ""] = float(m[3])
    check(helps == set(types), "HELP and TYPE differ", helps ^ set(types))
    for name, kind in types.items():
        if kind == "counter":
            for (n, _), v in samples.items():
                check(n != name or v >= 0, "a negative counter:", name)
        if kind == "histogram":
            buckets = [(l, v) for (n, l), v in samples.items() if n == name + "_bucket"]
            values = [v for _, v in buckets]
            check(values == sorted(values), "buckets fall:", name)
            check(buckets[-1][0] == 'le="+Inf"' and values[-1] == samples[name + "_count", ""], "+Inf:", name)
    return samples, types


def run(scope, *flags):
    """Runs the functions test_NAME of `scope` (those named on the command line, or all) against a server with a pair of
    random weights; its files are in s.folder. The exit status of the process."""
    tests = {name[5:]: f for name, f in scope.items() if name.startswith("test_")}
    chosen = sys.argv[1:] or list(tests)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([BINARY, "synth", "tiny", "-o", folder, "--vocab", "8192", "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)
        files = sorted(os.listdir(folder))
        draft = next(os.path.join(folder, f) for f in files if "assistant" in f)
        model = next(os.path.join(folder, f) for f in files if "assistant" not in f and f.endswith(".gguf"))
        s = Server(model, "-md", draft, "--slot-save-path", folder, *flags)
        s.model, s.draft, s.folder = model, draft, folder
        try:
            for name in chosen:
                t0 = time.monotonic()
                try:
                    tests[name](s)
                    print("ok   %-16s %5.1f s" % (name, time.monotonic() - t0), flush=True)
                except (Failure, Exception) as e:
                    failed.append(name)
                    print("FAIL %-16s %s: %s" % (name, type(e).__name__, e), flush=True)
                if s.process.poll() is not None:
                    print("the server ended with", s.process.returncode, s.text())
                    return 1
            log = s.stop()
            if failed:
                print(log[-2000:])
        finally:
            s.kill()
    print("%d of %d failed: %s" % (len(failed), len(chosen), " ".join(failed)) if failed else "all passed")
    return 1 if failed else 0
