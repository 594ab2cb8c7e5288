#!/usr/bin/env bash
# A complete worker in bash with curl and jq: runs one command for each task. The command gets the payload on stdin and writes the
# result, as JSON, to stdout. A failure is any exit code but 0; the last line of stderr is its message.
#
#   TRIARCH_MASTERS=http://127.0.0.1:7101,http://127.0.0.1:7102 TRIARCH_KIND=count worker.sh wc -c
#
# docs/workers/any-language.md explains the rules, numbered as here. jq reads numbers as floating-point ones.
set -u
shopt -s nullglob
IFS=, read -ra masters <<<"${TRIARCH_MASTERS:-http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103}"
kind=${TRIARCH_KIND:-conformance}
slots=${SLOTS:-4}
shutdown_s=30
dir=$(mktemp -d)
stopping=false
trap 'stopping=true' TERM INT
trap 'rm -rf "$dir"' EXIT
remember() { # The leader, for all processes of this worker.
  printf '%s' "$1" >"$dir/leader.$BASHPID" && mv "$dir/leader.$BASHPID" "$dir/leader"
}

next_master() { # AFTER THIS ONE
  local i
  for i in "${!masters[@]}"; do
    if [ "${masters[i]}" = "$1" ]; then remember "${masters[(i + 1) % ${#masters[@]}]}"; return; fi
  done
  remember "${masters[0]}"
}
remember "${masters[0]}"

# METHOD PATH BODY-FILE ANSWER-FILE SECONDS: 0 with the answer; 1 to try again, after the seconds in ANSWER-FILE.after;
# 2 if the cluster does not know the worker (any more); 3 if the request is wrong.
call() {
  local leader said status location first
  rm -f "$4.after"
  for _ in 1 2 3 4 5 6; do
    if [ -e "$session/over" ] && [ "$2" = "$path/poll" ]; then return 1; fi
    [ -e "$3" ] || return 3 # The attempt was stopped.
    leader=$(<"$dir/leader")
    said=$(curl -sS -m "$5" -o "$4" -D "$4.head" -X "$1" --data-binary "@$3" -H 'content-type: application/json' \
      ${secret:+-H "triarch-worker-secret: $secret"} -w '%{http_code} %{redirect_url}' "$leader$2" 2>"$4.error") ||
      { next_master "$leader"; continue; }
    IFS=' ' read -r status location <<<"$said"
    case $status in
      307) remember "${location%"$2"}" ;; # Rule 1: the leader is elsewhere.
      2??) read -r -N 1 first <"$4" && [ "$first" = '{' ] && return 0; next_master "$leader"; return 1 ;;
      404) [ "$(jq -r '.code' "$4")" = unknown_worker ] && return 2; return 3 ;;
      429 | 5??) sed -n 's/^retry-after: *\([0-9]*\).*/\1/Ip' "$4.head" >"$4.after"; next_master "$leader"; return 1 ;;
      *) echo "refused: $(head -c 500 "$4")" >&2; return 3 ;;
    esac
  done
  return 1
}

# As `call`, again and again with growing pauses: rule 5.
persist() {
  local pause_ms=200 after code
  while :; do
    call "$@"
    code=$?
    [ $code -eq 1 ] || return $code
    if $stopping || { [ -e "$session/over" ] && [ "$2" = "$path/poll" ]; }; then return 1; fi
    after=$(cat "$4.after" 2>/dev/null)
    if [ "${after:-0}" -ge 1 ]; then sleep "$after"; else sleep "$((pause_ms / 1000)).$(printf %03d $((pause_ms % 1000)))"; fi
    pause_ms=$((pause_ms * 2 > 5000 ? 5000 : pause_ms * 2))
  done
}

# Sets `running`, the list of the attempts that are not acknowledged yet, and `listed`, their directories. An attempt has the file
# `entry` as long as it is listed.
list() {
  local at
  running="" listed=()
  for at in "$session"/run/*/entry; do
    running+=${running:+,}$(<"$at") && listed+=("${at%/entry}")
  done 2>/dev/null
  running="[$running]"
}

stop_attempt() { # DIRECTORY. The result is not reported.
  local pid
  touch "$1/stopped"
  pid=$(cat "$1/pid" 2>/dev/null) && kill -KILL -- "-$pid" 2>/dev/null
  rm -rf "$1"
}

# ANSWER-FILE: stops what the answer names, of the leases that the request listed. Rule 4. Prints the time to the next heartbeat.
obey() {
  local name at entry
  while read -r name; do
    case $name in
      drain) touch "$session/over" ;;
      \"*)
        for at in "${listed[@]}"; do
          entry=$(cat "$at/entry" 2>/dev/null)
          case $entry in "{\"task\":$name,"*) stop_attempt "$at" ;; esac
        done
        ;;
      *) echo "$name" ;;
    esac
  done < <(jq -r '((.cancel // []) + (.lost // []) | .[] | tojson), (if .drain then "drain" else empty end),
    (.heartbeat_ms // 1000) / 1000' "$1")
}

gone() { # Rule 6: the leases are gone too.
  local attempt
  touch "$session/gone" "$session/over"
  for attempt in "$session"/run/*/; do stop_attempt "${attempt%/}"; done
}

heartbeats() {
  local wait_s=$1 answer=$session/heartbeat.json heard=$((${EPOCHREALTIME/./} / 1000)) begun attempt running listed
  while [ ! -e "$session/left" ] && [ ! -e "$session/gone" ]; do
    sleep "$wait_s"
    list
    printf '{"running": %s}' "$running" >"$answer.body"
    begun=$((${EPOCHREALTIME/./} / 1000))
    call POST "$path/heartbeat" "$answer.body" "$answer" $((lease_ms / 1000 + 1))
    case $? in
      0)
        heard=$begun
        wait_s=$(obey "$answer")
        ;;
      1) sleep "$(grep -x '[0-9]*' "$answer.after" 2>/dev/null || echo 0)" ;;
      2) gone ;;
    esac
    # Rule 3: without an answer for the length of a lease, others may run these tasks by now.
    if [ $((${EPOCHREALTIME/./} / 1000 - heard)) -gt "$lease_ms" ]; then
      for attempt in "$session"/run/*/; do stop_attempt "${attempt%/}"; done
    fi
  done
}

# DIRECTORY COMMAND…: runs one attempt, and reports its result until there is a verdict.
attempt() {
  local at=$1 limit=$2 code pid
  shift 2
  # Rule 7: the worker enforces the limit of the task; 0 is none.
  setsid timeout -k 5 "$limit" "$@" <"$at/payload.json" >"$at/out" 2>"$at/err" &
  pid=$!
  echo "$pid" >"$at/pid"
  [ -e "$at/stopped" ] && kill -KILL -- "-$pid" 2>/dev/null
  wait "$pid"
  code=$?
  [ -e "$at/entry" ] || return
  if [ $code -eq 0 ] && jq -c --slurpfile result "$at/out" '. + {status: "succeeded", result: $result[0]}' "$at/entry" \
    >"$at/result.json" 2>"$at/err"; then
    :
  elif [ $code -eq 124 ] || [ $code -eq 137 ]; then
    failed "$at" timeout "the attempt took longer than $limit s"
  else
    failed "$at" exit "$(tail -n 1 "$at/err")"
  fi
  while [ -e "$at/result.json" ]; do
    # Rule 2: the same result again, until there is a verdict. The lease is confirmed until then.
    { printf '{"results": [' && cat "$at/result.json" && printf ']}'; } >"$at/report.json" || return
    persist POST "$path/report" "$at/report.json" "$at/verdict.json" 10
    code=$?
    [ -e "$at/entry" ] || return
    case $code in
      0) code=$(jq -r '.results[0].code // ""' "$at/verdict.json") ;;
      2) gone; return ;;
      *) code=invalid_request ;;
    esac
    case $code in
      payload_too_large | invalid_request)
        [ -e "$at/refused" ] && break
        touch "$at/refused"
        failed "$at" result_refused "$(jq -r '.results[0].detail // .detail' "$at/verdict.json")"
        ;;
      *) break ;;
    esac
  done
  rm -rf "$at"
}

failed() { # DIRECTORY TYPE MESSAGE
  jq -c --arg type "$2" --arg message "$3" \
    '. + {status: "failed", error: {$type, $message}}' "$1/entry" >"$1/result.json"
}

polls() { # COMMAND…
  local answer=$session/poll.json running listed free token entry limit payload at
  while [ ! -e "$session/over" ]; do
    list
    free=$((slots - ${#listed[@]}))
    if [ $free -le 0 ]; then sleep 0.1; continue; fi
    printf '{"max": %d, "wait_ms": 20000, "running": %s}' "$free" "$running" >"$answer.body"
    persist POST "$path/poll" "$answer.body" "$answer" 30
    case $? in 0) ;; 2) gone; return ;; 3) sleep 1; continue ;; *) continue ;; esac
    obey "$answer" >/dev/null
    while IFS=$'\x1f' read -r token entry limit payload; do
      at=$session/run/$token
      mkdir "$at" 2>/dev/null || continue # Delivered again.
      printf '%s' "$payload" >"$at/payload.json"
      printf '%s' "$entry" >"$at/new" && mv "$at/new" "$at/entry"
      attempt "$at" "$limit" "$@" &
    done < <(jq -r '.tasks[] | [.token, ({task: .id, token} | tojson), (.timeout_ms // 0) / 1000, (.payload | tojson)]
      | map(tostring) | join("\u001f")' "$answer")
  done
}

# One registration: from POST /v1/workers to DELETE, or until the cluster has lost it.
session() { # NUMBER COMMAND…
  local session=$dir/$1 secret="" path="" poller beats deadline attempt lease_ms running listed lost
  shift
  mkdir -p "$session/run"
  jq -nc --arg name "$(hostname)-$$-$RANDOM" --arg kind "$kind" --argjson slots "$slots" \
    '{$name, queues: ["default"], kinds: [$kind], $slots}' >"$session/about.json"
  persist POST /v1/workers "$session/about.json" "$session/registered.json" 10 || return 1
  path=/v1/workers/$(jq -r '.id | @uri' "$session/registered.json")
  secret=$(jq -r '.secret // ""' "$session/registered.json")
  lease_ms=$(jq .lease_ms "$session/registered.json")
  heartbeats "$(jq '.heartbeat_ms / 1000' "$session/registered.json")" &
  beats=$!
  polls "$@" &
  poller=$!
  while ! $stopping && [ ! -e "$session/over" ]; do sleep 0.1; done
  touch "$session/over"
  # The poll that waits is broken off, so that no more tasks come.
  pkill -P "$poller" -x curl
  deadline=$((SECONDS + shutdown_s))
  while list && [ ${#listed[@]} -gt 0 ] && [ ! -e "$session/gone" ] && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
  lost=false
  [ -e "$session/gone" ] && lost=true
  touch "$session/left"
  # Rule 9: what still runs goes back to the queue at once.
  $lost || call DELETE "$path" /dev/null "$session/left.json" 10
  for attempt in "$session"/run/*/; do stop_attempt "${attempt%/}"; done
  wait "$poller" "$beats" 2>/dev/null
  $lost
}

[ $# -gt 0 ] || { echo "usage: worker.sh COMMAND…" >&2; exit 2; }
number=0
while session $((number += 1)) "$@" && ! $stopping; do :; done
