#!/usr/bin/env bash
# The official openai and anthropic packages (Python and JavaScript), Prometheus' promtool and the page in Chromium,
# against `tandem serve` with the demo pair. Not part of ctest, since it installs packages, into BUILD/clients only:
#   tests/server/clients.sh [BUILD] [PART…]      BUILD: build-dev; parts: python js metrics page
# TD_CLIENTS_LATEST=1 takes the newest packages instead of those that requirements.txt and package.json name.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:-$here/../../build-dev}" && pwd)
shift $(($# > 0))
parts=${*:-python js metrics page}
work=$build/clients
failed=0
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true' EXIT
mkdir -p "$work"

skip() { printf 'SKIP %s: %s\n' "$1" "$2"; }
have() { command -v "$1" >/dev/null; }

# start LOG FLAGS…: sets url and server
start() {
  local log=$1 i
  shift
  "$build/tandem" serve --port 0 "$@" >"$log" 2>&1 &
  server=$!
  for i in $(seq 300); do
    url=$(sed -n 's/.*ready on \(127.0.0.1\) port \([0-9]*\).*/http:\/\/\1:\2/p' "$log")
    [ -z "$url" ] || return 0
    sleep 0.1
  done
  cat "$log"
  return 1
}

# stop: the server must end in order
stop() {
  kill "$server"
  wait "$server" || { echo "FAIL the server ended with $?"; failed=1; }
  server=
}

install_python() {
  have python3 || { skip "$1" "no python3"; return 1; }
  [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv" || { skip "$1" "no venv module"; return 1; }
  local what=(-r "$here/clients/requirements.txt")
  [ -z "${TD_CLIENTS_LATEST:-}" ] || what=(--upgrade openai anthropic)
  "$work/venv/bin/pip" install -q --disable-pip-version-check "${what[@]}" >"$work/pip.log" 2>&1 ||
    { skip "$1" "pip cannot install (no network?), see $work/pip.log"; return 1; }
}

# The programs are copied beside the packages, where Node looks for them.
install_js() {
  have npm || { skip "$1" "no npm"; return 1; }
  mkdir -p "$work/js"
  cp "$here"/clients/*.mjs "$here/clients/package.json" "$work/js/"
  local what=()
  [ -z "${TD_CLIENTS_LATEST:-}" ] ||
    what=(openai@latest @anthropic-ai/sdk@latest playwright-core@latest zod@latest)
  (cd "$work/js" && npm install --no-audit --no-fund "${what[@]}") >"$work/npm.log" 2>&1 ||
    { skip "$1" "npm cannot install (no network?), see $work/npm.log"; return 1; }
}

# The two slots and the short queue are what the tests about "too many" count on.
run_python() {
  install_python python || return 0
  "$work/venv/bin/pip" list 2>/dev/null | grep -E '^(openai|anthropic) '
  start "$work/python.log" -np 2 --queue-max 2 --api-key secret
  for p in openai anthropic; do
    echo "-- $p, Python"
    "$work/venv/bin/python" -B "$here/clients/${p}_package.py" "$url" secret || failed=1
  done
  stop
}

run_js() {
  install_js js || return 0
  (cd "$work/js" && npm list --depth 0 2>/dev/null | grep -E 'openai|anthropic')
  start "$work/js.log" -np 2 --queue-max 2 --api-key secret
  for p in openai anthropic; do
    echo "-- $p, JavaScript"
    node "$work/js/${p}_package.mjs" "$url" secret || failed=1
  done
  stop
}

# Before, during and after load, the text must be what Prometheus reads without a complaint.
run_metrics() {
  local promtool=${PROMTOOL:-promtool} i
  have "$promtool" || { skip metrics "no promtool (Debian: prometheus)"; return 0; }
  have python3 || { skip metrics "no python3"; return 0; }
  "$promtool" --version 2>&1 | head -1
  start "$work/metrics.log" -np 4 --metrics
  check_metrics before
  python3 -B "$here/../../tools/load/load.py" "$url" --streams 8 --seconds 3 --quiet &
  local load=$!
  for i in 1 2 3 4 5 6; do
    sleep 0.4
    check_metrics "during load $i"
  done
  wait "$load" || failed=1
  check_metrics after
  stop
}

# promtool reads the text (else it ends with 1) and comments on names. Two comments are about llama-server's names, which
# dashboards ask for: the colon, and a maximum that is a counter. Any other is an error.
check_metrics() {
  local status=0 comments
  curl -sf "$url/metrics" >"$work/metrics.txt" || { echo "FAIL metrics $1: no answer"; failed=1; return 0; }
  comments=$("$promtool" check metrics <"$work/metrics.txt" 2>&1) || status=$?
  comments=$(grep -vE "^llamacpp:[a-z0-9_]+ metric names should not contain ':'$|^llamacpp:n_tokens_max counter metrics should" \
    <<<"$comments" || true)
  if [ -n "$comments" ] || [ "$status" = 1 ]; then
    printf 'FAIL metrics %s\n%s\n' "$1" "$comments"
    failed=1
  else
    echo "ok   metrics $1: $(grep -vc '^#' "$work/metrics.txt") samples"
  fi
}

run_page() {
  local chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
  [ -n "$chromium" ] || { skip page "no Chromium"; return 0; }
  install_js page || return 0
  CHROMIUM=$chromium node "$work/js/page.mjs" "$build/tandem" "$work/page" || failed=1
}

for part in $parts; do "run_$part"; done
exit $failed
