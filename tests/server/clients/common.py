"""What the two Python programs share: where the server is, its slots seen from outside, one line per test."""
import json
import sys
import time
import urllib.request

url, key = sys.argv[1:3]
chosen = sys.argv[3:]


def get(path):
    request = urllib.request.Request(url + path, headers={"Authorization": "Bearer " + key})
    with urllib.request.urlopen(request, timeout=20) as r:
        return json.load(r)


def n_busy():
    return sum(s["is_processing"] for s in get("/slots"))


def wait_busy(n, seconds=20):
    wait(lambda: n_busy() >= n, seconds, "%d slots never get busy" % n)


def wait_idle(seconds=3):
    wait(lambda: n_busy() == 0, seconds, "a slot is still busy")


def wait(condition, seconds, text):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, text
        time.sleep(0.01)


def raises(kind, status, call, inside=""):
    """The call must raise exactly that class with that status, and say what is wrong."""
    try:
        call()
    except kind as e:
        assert type(e) is kind, (type(e), kind)
        assert getattr(e, "status_code", None) == status, e
        assert inside in str(e), (inside, str(e))
        return e
    raise AssertionError("no " + kind.__name__)


def run(scope):
    failed = 0
    for name, test in list(scope.items()):
        if not name.startswith("test_") or (chosen and name[5:] not in chosen):
            continue
        begin = time.monotonic()
        try:
            said = test()
            print("ok   %-22s %5.1f s %s" % (name[5:], time.monotonic() - begin, "" if said is None else repr(said)))
        except Exception as e:
            failed += 1
            print("FAIL %-22s %s: %s" % (name[5:], type(e).__name__, str(e)[:1500]))
        sys.stdout.flush()
    sys.exit(failed > 0)
