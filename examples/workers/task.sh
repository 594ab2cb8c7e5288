#!/usr/bin/env bash
# The task of scripts/worker-conformance.sh, for worker.sh: waits `run_ms`, then fails with `fail`, or returns `value` or a text of
# `result_bytes`.
set -eu
payload=$(cat)
sleep "$(jq '.run_ms / 1000' <<<"$payload")"
if message=$(jq -er .fail <<<"$payload"); then
  printf '%s\n' "$message" >&2
  exit 1
fi
if bytes=$(jq -e .result_bytes <<<"$payload"); then
  printf '"%s"\n' "$(head -c "$bytes" /dev/zero | tr '\0' x)"
else
  jq -c .value <<<"$payload"
fi
