# Short names for the scripts. `just` lists them; every recipe is one script that runs without `just` as well.

_default:
    @just --list

# Formatting, lints, unit tests, documentation, dependencies: before each commit.
check:
    scripts/check.sh

# Every test; installs what the tests need.
test:
    scripts/test.sh

# Formatting, lints, unit tests and a small cluster, in two minutes when the debug build is there.
quick:
    scripts/test.sh --quick

# A cluster, real work, and a leader that is killed.
quickstart:
    scripts/quickstart.sh

# A fault drill, for example `just drill kill-leader --kills 10`.
drill name *args:
    scripts/chaos/{{name}}.sh {{args}}

# Whole clusters on a simulated kernel, network and disk, for example `just sim --seeds 20`.
sim *args:
    scripts/simulate.sh {{args}}

# The figures of docs/performance.md; wants a quiet machine.
bench *args:
    scripts/bench.sh {{args}}

# The hot parts by themselves, against the committed baseline.
micro *args:
    scripts/micro.sh {{args}}

# Invalid input for every decoder, for example `just fuzz --seconds 60`.
fuzz *args:
    scripts/fuzz.sh {{args}}
