#!/usr/bin/env bash
# Shows what Triarch is for, with real processes and real work: three masters and two workers, hundreds of tasks
# submitted to a follower, the leader killed with `kill -9` while they run, and every result compared with what the
# same commands give without Triarch. Exits 0 only if nothing was lost and nothing was counted twice.
#
# Installs what is missing (a C compiler, curl, Rust) on Debian and Ubuntu, after asking on a terminal. The build is for a
# first look: not optimised, and so ready much sooner than a release. TRIARCH_BIN=path uses a program that is already built.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/prerequisites.sh"
# Three tasks for each file.
files_wanted=170

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold="" dim="" red="" green="" plain=""
fi
say() { printf '%s\n' "$*"; }
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
detail() { printf '  %s\n' "$*"; }
fail() {
  printf '\n%sFAILED: %s%s\n' "$red" "$*" "$plain" >&2
  exit 1
}

work=$(mktemp -d "${TMPDIR:-/tmp}/triarch-quickstart-XXXXXX")
export TRIARCH_DIR=$work/cluster TRIARCH_NODES=3 TRIARCH_WORKERS=2
prober=""

cleanup() {
  local code=$?
  trap - EXIT INT TERM HUP
  if [ -n "$prober" ]; then kill "$prober" 2>/dev/null || true; fi
  "$root/scripts/cluster.sh" stop >/dev/null 2>&1 || true
  if [ "$code" -eq 0 ]; then
    rm -rf "$work"
  else
    printf 'Logs and intermediate files are kept in %s\n' "$work" >&2
  fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A base for three free ports in a row, below the range the system takes its own ports from.
free_ports() {
  local base id try
  for try in $(seq 50); do
    base=$((20000 + (RANDOM + try) % 10000))
    for id in 1 2 3; do
      if (exec 3<>"/dev/tcp/127.0.0.1/$((base + id))") 2>/dev/null; then continue 2; fi
    done
    echo "$base"
    return
  done
  fail "found no three free ports in a row"
}

# The value of a top-level field of indented JSON on stdin.
field() { sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" | head -n 1; }
# The ids of the tasks in the answer to a submission.
task_ids() { sed -n 's/^    "\(t[^"]*\)",\{0,1\}$/\1/p'; }
# The ids of the job and of its one task in the answer to a submission by curl.
ids_in() { sed -n 's/^.*"id": *"\([^"]*\)".*"tasks": *\["\([^"]*\)"\].*$/\1 \2/p' "$1"; }
now_us() { echo "${EPOCHREALTIME/[.,]/}"; }

url() { echo "http://127.0.0.1:$((TRIARCH_PORT + $1))"; }
leader() { "$bin" cluster status --output json 2>/dev/null | field leader; }
# Prints the number of succeeded tasks of a job.
succeeded() {
  local count
  count=$("$bin" job show "$1" --output json | sed -n 's/^    "succeeded": \([0-9]*\),\{0,1\}$/\1/p')
  echo "${count:-0}"
}

say "${bold}Triarch: three masters, two workers, and the death of a leader${plain}"

# --- build ------------------------------------------------------------------------------------------------------

step "1. Build"
if [ -n "${TRIARCH_BIN:-}" ]; then
  bin=$(realpath "$TRIARCH_BIN")
  detail "skipped: using $bin"
else
  ensure_commands "cc build-essential" "curl curl" "ps procps" && ensure_rust || fail "see above for what is missing"
  detail "cargo build --profile quickstart (about two minutes the first time, on two cores)"
  (cd "$root" && cargo build --locked --profile quickstart --package triarch --bin triarch)
  bin=$(cd "$root" && realpath "${CARGO_TARGET_DIR:-target}")/quickstart/triarch
fi
export TRIARCH_BIN=$bin

# --- start ------------------------------------------------------------------------------------------------------

step "2. Start three masters and two workers, each a process of its own"
TRIARCH_PORT=$(free_ports)
export TRIARCH_PORT
"$root/scripts/cluster.sh" start >"$work/started" || fail "the cluster did not start"
TRIARCH_MASTERS="$(url 1),$(url 2),$(url 3)"
export TRIARCH_MASTERS
first_leader=$(leader)
[ -n "$first_leader" ] || fail "no master leads"
sed "s/^/  /; /^  master-$first_leader /s/\$/   leads/" "$work/started"
follower=$((first_leader % 3 + 1))
other=$((follower % 3 + 1))

# --- work -------------------------------------------------------------------------------------------------------

# Real files: this source tree, then the sources of the crates it was built with, then pieces of what was found.
list_files() {
  find "$root" \( -name target -o -name .git -o -name .tmp -o -name node_modules \) -prune -o -type f -size -512k -print
  find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -type f -name '*.rs' -size +1k -size -512k -print 2>/dev/null || true
}
# Names with quotes and the like are left out only to keep the JSON below readable.
list_files | grep -E '^[A-Za-z0-9_./@+ -]+$' | head -n "$files_wanted" >"$work/files" || true
found=$(wc -l <"$work/files")
if [ "$found" -lt "$files_wanted" ]; then
  mkdir "$work/pieces"
  find "$root/src" "$root/table" "$root/raft" "$root/storage" "$root/sdk" -name '*.rs' -exec cat {} + |
    split -l 40 -a 4 - "$work/pieces/piece-"
  find "$work/pieces" -type f | sort | head -n $((files_wanted - found)) >>"$work/files"
fi

# One task for each of: a checksum, a compression, a word count.
compress='gzip -9 -n -c "$1" | cksum'
{
  printf '{"name": "quickstart", "tasks": ['
  comma=""
  while read -r file; do
    printf '%s\n{"kind": "exec", "payload": {"argv": ["sha256sum", "%s"]}}' "$comma" "$file"
    printf ',\n{"kind": "exec", "payload": {"argv": ["sh", "-c", "%s", "compress", "%s"]}}' \
      "${compress//\"/\\\"}" "$file"
    printf ',\n{"kind": "exec", "payload": {"argv": ["wc", "-w", "%s"]}}' "$file"
    comma=","
  done <"$work/files"
  printf ']}\n'
} >"$work/job.json"
per_job=$((3 * $(wc -l <"$work/files")))
[ "$per_job" -ge 500 ] || fail "found work for $per_job tasks only"

step "3. Submit to a follower"
status=$(curl -s -m 10 -o "$work/curl.json" -w '%{http_code}' -X POST "$(url "$follower")/v1/jobs" \
  -H 'content-type: application/json' \
  -d '{"name": "hello", "tasks": [{"kind": "exec", "payload": {"argv": ["echo", "hello from Triarch"]}}]}') || true
[ "$status" = 201 ] || fail "curl -X POST to follower $follower was answered $status: $(cat "$work/curl.json")"
read -r hello hello_task <<<"$(ids_in "$work/curl.json")"
detail "curl -X POST $(url "$follower")/v1/jobs   ${dim}# one job, without -L${plain}"
detail "  201 Created, job $hello"

# Submissions that go on all the time, to both followers in turn: the gap in their acknowledgements is the failover.
# A submission without an answer is repeated under the same key, so it can never be two.
probe() {
  local nth=0 at sent status
  local -a order=("$follower" "$other")
  while true; do
    nth=$((nth + 1))
    at=$nth
    while true; do
      sent=$(now_us)
      status=$(curl -s -m 5 -o "$work/probe.json" -w '%{http_code}' -X POST "$(url "${order[at % 2]}")/v1/jobs" \
        -H 'content-type: application/json' \
        -d '{"name": "probe", "idempotency_key": "probe-'"$nth"'", "tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]}') || true
      case $status in
        200 | 201) break ;;
        *)
          at=$((at + 1))
          sleep 0.01
          ;;
      esac
    done
    printf '%s %s %s\n' "$sent" "$(now_us)" "$(ids_in "$work/probe.json")" >>"$work/probes"
    sleep 0.05
  done
}

# Submits the job once more, and adds its id to `jobs` and those of its tasks to $work/ids.
jobs=()
submit_job() {
  "$bin" submit --file "$work/job.json" --masters "$(url "$follower")" --output json >"$work/submitted.json" ||
    fail "the job was not accepted"
  job=$(field id <"$work/submitted.json")
  task_ids <"$work/submitted.json" >"$work/new-ids"
  [ "$(wc -l <"$work/new-ids")" -eq "$per_job" ] ||
    fail "submitted $per_job tasks, but $(wc -l <"$work/new-ids") were acknowledged"
  cat "$work/new-ids" >>"$work/ids"
  jobs+=("$job")
}
: >"$work/ids"
submit_job
detail "triarch submit --file job.json --masters $(url "$follower")"
detail "  job $job: sha256sum, gzip -9 | cksum and wc -w of $(wc -l <"$work/files") files = $per_job tasks"

# --- kill the leader --------------------------------------------------------------------------------------------

: >"$work/probes"
probe &
prober=$!
deadline=$((SECONDS + 60))
until [ "$(wc -l <"$work/probes")" -ge 2 ] && [ "$(succeeded "$job")" -gt 0 ]; do
  [ "$SECONDS" -lt "$deadline" ] || fail "no task finished in 60 s"
  sleep 0.02
done
# "the last " when there is more than one job.
last=""
# The kill must meet work that runs. If most of it is done (fast workers, slow commands of this script), there is more.
done_before=$(succeeded "$job")
while [ $((2 * done_before)) -gt "$per_job" ]; do
  [ "${#jobs[@]}" -lt 20 ] || fail "the workers finish each job before its leader can be killed: raise files_wanted in this script"
  submit_job
  last="the last "
  detail "job $job: the same $per_job tasks again, because most of the others have finished"
  done_before=$(succeeded "$job")
done
total=$((per_job * ${#jobs[@]}))
pid=$(cat "$TRIARCH_DIR/master-$first_leader.pid")
step "4. Kill the leader while they run"
killed=$(now_us)
kill -9 "$pid"
detail "kill -9 $pid   ${dim}# master $first_leader; $done_before of ${last}$per_job tasks had finished${plain}"

# The first submission that was sent after the kill and acknowledged.
deadline=$((SECONDS + 60))
until first=$(awk -v killed="$killed" '$1 > killed { print $2; exit }' "$work/probes") && [ -n "$first" ]; do
  [ "$SECONDS" -lt "$deadline" ] || fail "nothing was acknowledged in the 60 s after the leader's death"
  sleep 0.02
done
failover_ms=$(((first - killed) / 1000))
# A master that has not heard of the new leader yet names none.
deadline=$((SECONDS + 30))
until next_leader=$(leader) && [ -n "$next_leader" ]; do
  [ "$SECONDS" -lt "$deadline" ] || fail "no master names a leader, 30 s after the old one's death"
  sleep 0.05
done
detail "master $next_leader leads; the first new submission was acknowledged ${bold}$failover_ms ms${plain} after the kill"

# --- finish -----------------------------------------------------------------------------------------------------

step "5. Wait for every task"
"$bin" job wait "${jobs[@]}" >"$work/waited" || fail "a job did not succeed: $(cat "$work/waited")"
kill "$prober" 2>/dev/null || true
wait "$prober" 2>/dev/null || true
prober=""
probes=$(wc -l <"$work/probes")
{
  echo "$hello $hello_task"
  cut -d ' ' -f 3,4 "$work/probes"
} >"$work/small-jobs"
cut -d ' ' -f 1 "$work/small-jobs" | xargs "$bin" job wait >"$work/waited" || fail "one of the small jobs did not succeed"
cut -d ' ' -f 2 "$work/small-jobs" >>"$work/ids"
all=$(wc -l <"$work/ids")
detail "job ${jobs[*]} and the $((probes + 1)) small jobs submitted in between: all succeeded"

"$root/scripts/cluster.sh" start "$first_leader"
deadline=$((SECONDS + 30))
until curl -fs -m 1 -o /dev/null "$(url "$first_leader")/readyz"; do
  [ "$SECONDS" -lt "$deadline" ] || fail "master $first_leader did not come back"
  sleep 0.05
done
detail "master $first_leader, started again, has caught up and follows"

# --- check ------------------------------------------------------------------------------------------------------

step "6. Compare with the same commands, run without Triarch"
while read -r file; do
  sha256sum "$file"
  sh -c "$compress" compress "$file"
  wc -w "$file"
done <"$work/files" >"$work/expected-of-one"
: >"$work/expected"
: >"$work/got"
for job in "${jobs[@]}"; do
  cat "$work/expected-of-one" >>"$work/expected"
  "$bin" job output "$job" >>"$work/got"
done
different=$({ diff "$work/expected" "$work/got" || true; } | grep -c '^[<>]') || true
# Every attempt of every task, from the history the masters agree on.
xargs "$bin" task show --output json <"$work/ids" >"$work/tasks.json"
awk '
  /^{/ { tasks++; accepted = 0; attempts = 0; done = 0 }
  /^  "state": "succeeded"/ { done = 1 }
  /^ +"token": / { attempts++ }
  /^ +"outcome": "succeeded"/ { accepted++ }
  /^}/ {
    finished += done
    if (!done || accepted == 0) lost++
    if (accepted > 1) twice++
    if (attempts > 1) again++
  }
  END { print tasks + 0, finished + 0, lost + 0, twice + 0, again + 0 }
' "$work/tasks.json" >"$work/verdict"
read -r seen finished lost twice again <"$work/verdict"
lost=$((lost + all - seen))

row() { printf '  %-28s %s\n' "$1" "$2"; }
row "tasks done" "$finished of $all"
row "results as without Triarch" "$((total - (different + 1) / 2)) of $total"
row "lost" "$lost"
row "accepted twice" "$twice"
row "attempted again" "$again   ${dim}# their leases were lost or given back; each has one result${plain}"
row "failover" "$failover_ms ms   ${dim}# from kill -9 to the next acknowledged submission${plain}"

[ "$different" -eq 0 ] || fail "results differ: diff $work/expected $work/got"
[ "$lost" -eq 0 ] || fail "$lost tasks were lost"
[ "$twice" -eq 0 ] || fail "$twice tasks have more than one accepted result"
[ "$finished" -eq "$all" ] || fail "only $finished of $all tasks succeeded"

printf '\n%sNothing was lost, and nothing was counted twice.%s\n' "$green" "$plain"
say "Next: ${bold}${bin#"$root/"} dev${plain} starts a cluster to play with."
