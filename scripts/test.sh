#!/usr/bin/env bash
# Everything a change must pass: formatting, lints, unit tests, every crate's own tests, a random run of the table, tests
# of whole clusters and of the command line against the release build, a bounded run of the API fuzzer, the Python package,
# the quickstart, and a bounded number of fault drills. Installs what it needs where that is missing (Debian packages, and Rust by rustup).
#
#   scripts/test.sh            everything: half an hour on two cores
#   scripts/test.sh --quick    what breaks most often, in two minutes when the debug build is there: formatting, lints, unit
#                              tests, the tests of architecture and of texts, and a small cluster whose leader dies
#
# All steps run, also after one has failed; only what cannot be built ends it early. The last line of the output is
# "N passed, N failed", over all tests and drills; the exit code is 0 only if none failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

quick=false
case $* in
  "") ;;
  --quick) quick=true ;;
  *)
    echo "usage: scripts/test.sh [--quick]" >&2
    exit 2
    ;;
esac

passed=0
failed=0
failures=()
output=$(mktemp "${TMPDIR:-/tmp}/triarch-test-output-XXXXXX")
trap 'rm -f "$output"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Everything is built once here. Incremental data costs time and disk space, and has made the compiler fail.
export CARGO_INCREMENTAL=0

say() { printf '\n=== %s\n' "$*"; }

finish() {
  for name in "${failures[@]+"${failures[@]}"}"; do printf 'FAILED: %s\n' "$name"; done
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ]
  exit
}

# Runs a step and counts the tests that it reports; a step without a report counts as one. Exit code 77 means that this
# machine does not support the step.
step() {
  local name=$1 begun=$SECONDS code ok bad
  shift
  say "$name"
  "$@" 2>&1 | tee "$output"
  code=${PIPESTATUS[0]}
  ok=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$output" | awk '{sum += $1} END {print sum + 0}')
  bad=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$output" | awk '{sum += $1} END {print sum + 0}')
  if [ "$code" -eq 77 ]; then
    printf '(skipped: %s)\n' "$name"
    return 0
  fi
  if [ $((ok + bad)) -eq 0 ] && [ "$code" -eq 0 ]; then ok=1; fi
  # The step failed, but none of its tests did.
  if [ "$bad" -eq 0 ] && [ "$code" -ne 0 ]; then bad=1; fi
  passed=$((passed + ok))
  failed=$((failed + bad))
  if [ "$code" -ne 0 ]; then failures+=("$name"); fi
  printf '(%s: %d s)\n' "$name" $((SECONDS - begun))
  return "$code"
}

. scripts/prerequisites.sh

# Commands, each with the Debian package that contains it.
needs=(
  "cc build-essential"
  "curl curl"
  "strace strace"
  "ss iproute2"
  "ps procps"
  "mkfs.ext4 e2fsprogs"
  "mount mount"
  "faketime faketime"
  "iptables iptables"
  "python3 python3"
  "jq jq"
  "nginx nginx"
  "setpriv util-linux"
)

install_needs() {
  # Debian's Python is installed without venv and pip.
  python3 -c 'import ensurepip, venv' 2>/dev/null || needs+=("python3-venv python3-venv")
  ensure_commands "${needs[@]}" && ensure_rust
}

# One test of each kind of promise, against real processes of the debug build.
quick_tests=(
  api::basics::a_job_submitted_to_a_follower_is_visible_on_every_node
  api::basics::submitting_an_idempotency_key_again_returns_the_first_job
  api::basics::a_worker_that_knows_one_follower_gets_tasks_and_its_output_is_shown
  failover::leader_loss::killing_the_leader_under_load_loses_nothing_acknowledged
  failover::full_restart::a_lease_and_its_token_survive_the_death_of_all_masters
)

# A name that no test has any more is a failure, not a test less.
small_cluster() {
  local found
  found=$(cargo test --locked --quiet --test cluster -- --list --exact "${quick_tests[@]}" | grep -c ': test$')
  if [ "$found" -ne "${#quick_tests[@]}" ]; then
    echo "only $found of ${#quick_tests[@]} tests were found: correct quick_tests in scripts/test.sh"
    return 1
  fi
  cargo test --locked --quiet --test cluster -- --exact "${quick_tests[@]}"
}

if $quick; then
  # All tests are built together, and incrementally for the next run.
  unset CARGO_INCREMENTAL
  step "formatting" cargo fmt --all --check
  step "lints" cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
  step "unit tests" cargo test --workspace --lib --bins --locked --quiet
  step "architecture and texts" cargo test --workspace --test architecture --test prose --locked --quiet
  step "a small cluster" small_cluster
  finish
fi

say "what the tests need"
if ! install_needs; then
  echo "what is missing could not be installed"
  failed=1 failures=("what the tests need")
  finish
fi
echo "all there: $(cargo --version)"

step "formatting, lints, unit tests" scripts/check.sh

# Optimised, but not across crates and without information for debuggers: that builds sooner. The build that users get
# differs in speed alone.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0
# The same packages in every build, so that nothing is built twice with different features.
if ! step "release build" cargo build --release --locked --quiet --package triarch --package triarch-chaos \
  --package triarch-simulation --package triarch-check; then
  finish
fi
step "what is deployed" scripts/lint-deploy.sh
# Tests use the release build of the program. The test programs themselves are not optimised.
release=$(realpath "${CARGO_TARGET_DIR:-target}/release")
export TRIARCH_BIN=$release/triarch

# More damaged places and more crash points than in an ordinary run of these tests.
export TRIARCH_DAMAGES=1000 TRIARCH_CRASH_SERVER_POINTS=80
step "crates, clusters, command line" cargo test --workspace --locked --no-fail-fast --test '*'
seed=$((RANDOM * 32768 + RANDOM))
step "random commands, from seed $seed" env TRIARCH_TABLE_SEED=$seed TRIARCH_TABLE_COMMANDS=300 \
  cargo test --workspace --locked --quiet --test random
step "many more random commands, optimized" scripts/table-random.sh --commands 200000 --seed "$seed"
# Fixed seeds, so that a failure is due to the change. Run alone, both scripts use random seeds.
step "the interface, fuzzed" env TRIARCH_FUZZ_SEED=1 scripts/fuzz-api.sh
step "100 simulated clusters" scripts/simulate.sh --seeds 100 --from 1
step "the Python package" scripts/test-python.sh
step "quickstart" scripts/quickstart.sh
step "drill: 10 leaders killed" "$release/triarch-chaos" kill-leader --kills 10
step "drill: 45 faults of all kinds, up to three at once" "$release/triarch-chaos" random --faults 45
step "drill: hostile clients of all kinds" "$release/triarch-chaos" hostile-clients --seconds 30
step "drill: 20 hand-overs" "$release/triarch-chaos" hand-over --times 20
step "drill: all masters killed at once" "$release/triarch-chaos" kill-all --rounds 1
step "drill: a backup restored" "$release/triarch-chaos" backup-restore --backups 1
step "drill: three masters to five and back" "$release/triarch-chaos" grow-shrink --rounds 1
step "drill: a lost master replaced" "$release/triarch-chaos" replace-node --rounds 1
step "drill: a rolling restart" "$release/triarch-chaos" rolling-restart --rounds 1
step "drill: wrong clocks" "$release/triarch-chaos" clock-jumps --jumps 3
step "drill: the power cut" "$release/triarch-chaos" power-cut --cuts 1
finish
