#!/bin/sh
# Runs one Python test file in the tests' virtual environment; 77 (skipped) where it is missing.
root=$(cd "$(dirname "$0")/../.." && pwd)
python=$root/build/venv-test/bin/python
if [ ! -x "$python" ]; then
  echo "SKIPPED: build/venv-test is missing; 'make setup-tests' makes it"
  exit 77
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PYTHONDONTWRITEBYTECODE=1
cd "$root" && exec "$python" -m pytest -q -p no:cacheprovider -rs "$@"
