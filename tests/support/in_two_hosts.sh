#!/bin/sh
# Runs a command where two network hosts exist, h1 (10.77.0.1) and h2 (10.77.0.2), in namespaces that end with it.
# 77 (skipped) where that needs more rights than there are.
here=$(cd "$(dirname "$0")" && pwd)
for tool in ip unshare; do
  command -v $tool > /dev/null || { echo "SKIPPED: $tool is missing; 'make setup-tests' installs it"; exit 77; }
done
if ! unshare -m -n -p -f --mount-proc true 2> /dev/null; then
  echo "SKIPPED: network namespaces need root"
  exit 77
fi
# The shell stays as the first process of its namespace: it reaps orphans.
exec unshare -m -n -p -f --mount-proc --kill-child bash -c '. "$0/two_hosts.sh"; "$@"; exit $?' "$here" "$@"
