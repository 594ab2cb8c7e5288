#!/usr/bin/env bash
# Measures the figures of docs/performance.md: Triarch by `triarch bench`, other task queues with the same work, the growth
# of costs, and a long run. Starts all systems on free ports, stops them again, and prints the tables. Run it on an idle
# machine: the load of the machine is printed with the figures.
#
#   scripts/bench.sh                         everything; more than an hour
#   scripts/bench.sh --part own --rounds 5   only Triarch itself: own, peers, scale or sustained; may be repeated
#   scripts/bench.sh --part peers --only beanstalkd
#   scripts/bench.sh --part scale            pages, plots and JSON into docs/performance (--into names another folder)
#   scripts/bench.sh --part scale --scale 0.01 --into /tmp/trial    a trial with a hundredth of all counts
#   scripts/bench.sh --part sustained --minutes 20
#
# Installs missing packages of the other task queues: Debian packages, and Python packages into .tmp/bench. With
# TRIARCH_BENCH_INSTALL=no it installs nothing, and skips task queues that are not installed. TRIARCH_BIN: the program.
set -euo pipefail
cd "$(dirname "$0")/.."

install=${TRIARCH_BENCH_INSTALL:-yes}
python=python3
case " $* " in
  *" --part peers "*) peers=yes ;;
  *" --part "*) peers=no ;;
  *) peers=yes ;;
esac

if [ "$peers" = yes ]; then
  wanted=()
  for program in redis-server beanstalkd rabbitmq-server; do
    command -v "$program" >/dev/null || wanted+=("$program")
  done
  if [ "$install" = yes ] && [ ${#wanted[@]} -gt 0 ] && command -v apt-get >/dev/null; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    # Only the programs of these packages are needed. Their services must not start.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends "${wanted[@]}" >&2 \
      || echo "bench.sh: ${wanted[*]} could not be installed, and is not measured" >&2
  fi
  venv=.tmp/bench/venv
  if [ "$install" = yes ] && ! cmp -s tests/perf/bench/peers/requirements.txt "$venv/installed.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r tests/perf/bench/peers/requirements.txt >&2 \
      && cp tests/perf/bench/peers/requirements.txt "$venv/installed.txt" \
      || echo "bench.sh: not all Python packages could be installed" >&2
  fi
  if [ -x "$venv/bin/python" ]; then
    python=$venv/bin/python
    PATH=$PWD/$venv/bin:$PATH
  fi
fi

binary=${TRIARCH_BIN:-${CARGO_TARGET_DIR:-target}/release/triarch}
[ -n "${TRIARCH_BIN:-}" ] || cargo build --release --locked --quiet --bin triarch

# Thousands of workers, each with connections of its own.
ulimit -n "$(ulimit -H -n)"
exec "$python" -B -m tests.perf.bench --binary "$binary" "$@"
