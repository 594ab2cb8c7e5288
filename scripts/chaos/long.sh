#!/usr/bin/env bash
# The long run behind the figures in docs/reliability.md: leaders killed one after the other (--kills 1000), and faults of
# all kinds (--faults 500). --output FILE writes the summary as JSON, too.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" long "$@"
