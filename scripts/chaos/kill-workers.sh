#!/usr/bin/env bash
# Kills all workers at once under load (--times 5), and checks that their tasks are run by those that come, and that no
# task has two accepted results.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-workers "$@"
