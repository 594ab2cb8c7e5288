#!/usr/bin/env bash
# Pauses the leader with SIGSTOP under load (--pauses 5) while another takes over, resumes it, and checks that it answers
# nothing from its lost leadership. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" pause-leader "$@"
