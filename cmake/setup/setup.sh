#!/bin/sh
# Installs what the build needs and is not there: system packages, and LibTorch from its wheel in build/venv.
# Your own LibTorch: CMAKE_PREFIX_PATH=/where/it/is make build
cd "$(dirname "$0")/../.."
. cmake/setup/common.sh

install_packages cmake/setup/packages.txt
if [ -n "${CMAKE_PREFIX_PATH:-}" ]; then
  say "LibTorch is looked for in $CMAKE_PREFIX_PATH"
elif [ ! -d "$venv" ] && python3 -c 'import importlib.metadata as m; assert m.version("torch").startswith("2.11.")' 2> /dev/null; then
  say "using the torch of $(command -v python3)"
else
  install_python "$venv" cmake/setup/requirements.txt
fi
