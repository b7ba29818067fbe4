#!/bin/sh
# clang-tidy over the engine's sources; findings are errors. Usage: cmake/setup/tidy.sh BUILD_DIRECTORY
cd "$(dirname "$0")/../.."
. cmake/setup/common.sh
command -v clang-tidy > /dev/null || { say "install clang-tidy first"; exit 1; }
# The sources are compiled with gcc's precompiled header, which clang cannot read.
database=$(mktemp -d)
trap 'rm -r "$database"' EXIT
sed -E 's/-Winvalid-pch|-fpch-preprocess//g; s/-include [^ ]*cmake_pch.hxx//g' "$1/compile_commands.json" > "$database/compile_commands.json"
git ls-files 'core/*.cpp' 'parallel/*.cpp' 'models/*.cpp' 'launcher/*.cpp' |
  xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p "$database" --extra-arg=-include"$PWD/cmake/precompiled.h"
