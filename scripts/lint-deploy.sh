#!/usr/bin/env bash
# Checks that the units keep trying, and the files in deploy/ with the tools that this machine has: shellcheck and sh -n for the package's scripts,
# systemd-analyze for the units, yamllint and kubernetes-validate for Kubernetes, hadolint for the Dockerfile. Reports the
# files that it could not check. It runs no container.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

failed=0
checked() { # NAME COMMAND...
  local name=$1
  shift
  if ! command -v "$1" >/dev/null; then
    printf 'not checked: %s (%s is not here)\n' "$name" "$1"
  elif output=$("$@" 2>&1); then
    printf 'ok: %s\n' "$name"
  else
    printf 'FAILED: %s\n%s\n' "$name" "$output"
    failed=1
  fi
}

# A unit names programs, users and directories of the machine it is installed on: only its own mistakes count here.
units() {
  local work
  work=$(mktemp -d) || return 1
  sed -e 's#^ExecStart=/usr/bin/triarch#ExecStart=/bin/true#' -e '/^Documentation=/d' deploy/systemd/triarch-server.service \
    >"$work/triarch-server.service"
  sed -e 's#^ExecStart=/usr/bin/triarch#ExecStart=/bin/true#' -e '/^Documentation=/d' deploy/systemd/triarch-worker.service \
    >"$work/triarch-worker.service"
  systemd-analyze verify --man=no "$work"/*.service
  local code=$?
  rm -rf "$work"
  return $code
}

# Whatever ends a process but `systemctl stop`, its unit starts it again, and never stops trying.
keeps_trying() { # UNIT
  local setting
  for setting in 'StartLimitIntervalSec=0' 'Restart=always' 'RestartSec=[1-9][0-9]*' 'RestartPreventExitStatus=2'; do
    grep -qxE "$setting" "$1" || { printf '%s lacks %s\n' "$1" "$setting"; return 1; }
  done
}

for unit in deploy/systemd/*.service; do checked "$unit keeps trying" keeps_trying "$unit"; done
for script in postinst prerm postrm; do checked "deploy/debian/$script" sh -n "deploy/debian/$script"; done
for script in scripts/*.sh scripts/chaos/*.sh; do checked "$script" bash -n "$script"; done
if command -v systemd-analyze >/dev/null; then
  if output=$(units 2>&1) && [ -z "$output" ]; then
    echo "ok: systemd units"
  else
    printf 'FAILED: systemd units\n%s\n' "$output"
    failed=1
  fi
else
  echo "not checked: systemd units (systemd-analyze is not here)"
fi
checked "Kubernetes: YAML" yamllint -s -c deploy/.yamllint deploy/kubernetes
checked "Kubernetes: schemas" kubernetes-validate --strict deploy/kubernetes/triarch.yaml
checked "Dockerfile" hadolint deploy/docker/Dockerfile
exit $failed
