#!/usr/bin/env bash
# A cluster on this machine, handled like a real one: separate processes with pid files, one by one to be
# started, killed, paused and resumed. For a throw-away cluster in one terminal, use `triarch dev` instead.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: scripts/cluster.sh <command>

  start          start every master and worker that does not run
  start WHO      start one again: a master by its number (2), a worker with a w (w1)
  stop           stop the workers, then the masters; their data stays
  status         what runs, and what the masters say
  kill WHO       kill -9, as a crash would
  pause WHO      stop it from running at all (SIGSTOP), as an overloaded machine would
  resume WHO     let it run again (SIGCONT)

environment:
  TRIARCH_DIR       where data, logs and pid files are kept   [.tmp/cluster]
  TRIARCH_BIN       the program                               [target/release/triarch, built if missing]
  TRIARCH_PORT      master N listens on this port plus N      [7100]
  TRIARCH_NODES     how many masters                          [3]
  TRIARCH_WORKERS   how many workers                          [2]
  TRIARCH_SERVER_ARGS, TRIARCH_WORKER_ARGS   more options for them, such as '--timing wan'
USAGE
}

root=$(cd "$(dirname "$0")/.." && pwd)
dir=$(realpath -m "${TRIARCH_DIR:-$root/.tmp/cluster}")
port=${TRIARCH_PORT:-7100}
nodes=${TRIARCH_NODES:-3}
workers=${TRIARCH_WORKERS:-2}
# Maximum seconds of a start, and of a stop before the process is killed.
start_seconds=30
stop_seconds=10

fail() {
  echo "cluster.sh: $*" >&2
  exit 1
}

find_binary() {
  bin=${TRIARCH_BIN:-}
  if [ -z "$bin" ]; then
    bin=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")/release/triarch
    [ -x "$bin" ] || (cd "$root" && cargo build --release --bin triarch >&2)
  fi
  [ -x "$bin" ] || fail "$bin is not there; build it, or say where it is with TRIARCH_BIN"
}

members() {
  local id all=""
  for id in $(seq "$nodes"); do all="$all,$id=127.0.0.1:$((port + id))"; done
  echo "${all#,}"
}

masters() {
  local id all=""
  for id in $(seq "$nodes"); do all="$all,http://127.0.0.1:$((port + id))"; done
  echo "${all#,}"
}

# `2` is master-2, `w1` is worker-1.
name_of() {
  case ${1:-} in
    w[1-9] | w[1-9][0-9]) echo "worker-${1#w}" ;;
    [1-9] | [1-9][0-9]) echo "master-$1" ;;
    *) fail "which one? a master by its number (2), a worker with a w (w1)" ;;
  esac
}

everyone() {
  local id
  for id in $(seq "$nodes"); do echo "$id"; done
  for id in $(seq "$workers"); do echo "w$id"; done
}

# The pid of a running process of ours; fails if it does not run. A pid file may be older than the machine's last
# start, so the process has to be this very program too.
pid_of() {
  local file=$dir/$1.pid pid
  [ -f "$file" ] || return 1
  pid=$(cat "$file")
  kill -0 "$pid" 2>/dev/null || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -e " --data-dir $dir/" -e " --name ${dir##*/}-" || return 1
  # A zombie counts as dead, although its parent has not waited for it yet.
  ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || return 1
  echo "$pid"
}

start_one() {
  local name pid
  name=$(name_of "$1")
  if pid=$(pid_of "$name"); then
    echo "$name already runs (pid $pid)"
    return
  fi
  mkdir -p "$dir"
  local -a command
  case $name in
    master-*)
      local id=${name#master-}
      # shellcheck disable=SC2206 # the options are words
      command=("$bin" server --id "$id" --listen "127.0.0.1:$((port + id))" --data-dir "$dir/$name"
        --cluster "$(members)" ${TRIARCH_SERVER_ARGS:-})
      ;;
    worker-*)
      # A name of its own for each start: the old one may still be counted among the living for a moment.
      # shellcheck disable=SC2206
      command=("$bin" worker --masters "$(masters)" --name "${dir##*/}-$name-$$" ${TRIARCH_WORKER_ARGS:-})
      ;;
  esac
  # In a session of its own, so that Ctrl-C here is not Ctrl-C there.
  setsid "${command[@]}" </dev/null >>"$dir/$name.log" 2>&1 &
  echo $! >"$dir/$name.pid"
  disown
}

last_words() {
  echo "the end of $dir/$1.log:" >&2
  tail -n 8 "$dir/$1.log" | sed 's/^/  | /' >&2
}

# Waits until every master is ready and every worker is registered.
wait_ready() {
  local deadline=$((SECONDS + start_seconds)) who name id live
  for who in $(everyone); do
    name=$(name_of "$who")
    while true; do
      pid_of "$name" >/dev/null || { last_words "$name" && fail "$name did not start"; }
      case $name in
        master-*)
          id=${name#master-}
          ! curl -fs -m 1 -o /dev/null "http://127.0.0.1:$((port + id))/readyz" || break
          ;;
        worker-*)
          live=$("$bin" worker list --state live --masters "$(masters)" 2>/dev/null) || live=""
          ! grep -q " ${dir##*/}-$name-" <<<"$live" || break
          ;;
      esac
      [ "$SECONDS" -lt "$deadline" ] || { last_words "$name" && fail "$name was not ready after $start_seconds s"; }
      sleep 0.05
    done
  done
}

start() {
  find_binary
  local who
  if [ $# -gt 0 ]; then
    start_one "$1"
    return
  fi
  for who in $(everyone); do start_one "$who"; done
  wait_ready
  show
}

show() {
  local who name pid where state
  for who in $(everyone); do
    name=$(name_of "$who")
    where=""
    case $name in master-*) where="http://127.0.0.1:$((port + ${name#master-}))" ;; esac
    if pid=$(pid_of "$name"); then
      state=runs
      ! grep -q '^State:.T' "/proc/$pid/status" || state=paused
      printf '%-9s  %-6s  pid %-8s %s\n' "$name" "$state" "$pid" "$where"
    else
      printf '%-9s  %-6s  %-12s %s\n' "$name" stopped "" "$where"
    fi
  done
}

status() {
  find_binary
  show
  echo
  "$bin" cluster status --masters "$(masters)"
}

# Sends a signal to a process of this cluster.
signal_one() {
  local name pid
  name=$(name_of "${2:-}")
  pid=$(pid_of "$name") || fail "$name does not run"
  kill "-$1" "$pid"
  echo "$name (pid $pid): $1"
}

# Pauses a process, and returns once all its threads have stopped: on a busy machine they stop one after the other.
pause() {
  local pid deadline=$((SECONDS + stop_seconds))
  signal_one STOP "${1:-}"
  pid=$(pid_of "$(name_of "$1")") || return 0
  while cat "/proc/$pid"/task/*/status 2>/dev/null | grep '^State:' | grep -qv 'State:.[TZX]'; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$1 (pid $pid) did not stop within $stop_seconds s"
    sleep 0.01
  done
}

# Stops the given processes by SIGTERM, and those that do not stop in time by SIGKILL.
stop_all() {
  local name pid deadline=$((SECONDS + stop_seconds))
  for name in "$@"; do
    # A paused process must be resumed, because it cannot handle SIGTERM before.
    if pid=$(pid_of "$name"); then kill -TERM "$pid" && kill -CONT "$pid"; fi 2>/dev/null || true
  done
  for name in "$@"; do
    while pid=$(pid_of "$name"); do
      if [ "$SECONDS" -ge "$deadline" ]; then
        echo "$name (pid $pid) did not stop in time: kill -9" >&2
        kill -KILL "$pid" 2>/dev/null || true
      fi
      sleep 0.05
    done
    rm -f "$dir/$name.pid"
  done
}

stop() {
  local file
  local -a running_workers=() running_masters=()
  for file in "$dir"/worker-*.pid; do [ ! -e "$file" ] || running_workers+=("$(basename "$file" .pid)"); done
  for file in "$dir"/master-*.pid; do [ ! -e "$file" ] || running_masters+=("$(basename "$file" .pid)"); done
  # Workers first: they can hand back what they hold only while there is a master.
  stop_all ${running_workers[@]+"${running_workers[@]}"}
  stop_all ${running_masters[@]+"${running_masters[@]}"}
  echo "stopped; data and logs stay in $dir"
}

case ${1:-} in
  start | stop | status) "$@" ;;
  kill) signal_one KILL "${2:-}" ;;
  pause) pause "${2:-}" ;;
  resume) signal_one CONT "${2:-}" ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
