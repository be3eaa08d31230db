#!/usr/bin/env bash
# The official openai and anthropic Python packages against a running server: chat, streams, tools, structured output,
# errors. Not part of ctest, since it installs packages:  tests/server/clients.sh http://127.0.0.1:8080 [KEY]
set -eu
url=${1:?usage: clients.sh URL [KEY]}
key=${2:-none}
venv=${TD_CLIENT_VENV:-${TMPDIR:-/tmp}/tandem-clients}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import openai, anthropic' 2>/dev/null || "$venv/bin/pip" install -q openai anthropic
exec "$venv/bin/python" "$(dirname "$0")/clients.py" "$url" "$key"
