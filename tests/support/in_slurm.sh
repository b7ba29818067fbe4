#!/bin/sh
# Runs a command inside a Slurm cluster of 2 nodes of 2 cores on this machine, in namespaces that end with it.
# 77 (skipped) where that needs more rights than there are.
here=$(cd "$(dirname "$0")" && pwd)
for tool in ip unshare slurmctld slurmd srun; do
  command -v $tool > /dev/null || { echo "SKIPPED: $tool is missing; 'make setup-tests' installs it"; exit 77; }
done
if ! unshare -n -u -p -f --mount-proc true 2> /dev/null; then
  echo "SKIPPED: a cluster in namespaces needs root"
  exit 77
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export SLURM_TEST_DIRECTORY=$scratch/cluster
# The shell stays as the first process of its namespace: it reaps orphans, whose process groups Slurm would wait for.
unshare -n -u -p -f --mount-proc --kill-child bash -c \
  '. "$0/slurm_nodes.sh" "$SLURM_TEST_DIRECTORY" 2 > /dev/null; "$@"; exit $?' "$here" "$@"
