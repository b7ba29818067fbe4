# Shared by the set-up scripts: sourced, from the root of the repository.
set -eu
venv=build/venv

say() { echo "setup: $*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo > /dev/null; then sudo "$@"; else
    say "this needs root: $*"; exit 1
  fi
}

# Installs the packages of a list that are not there yet.
install_packages() {
  missing=""
  for package in $(grep -v '^#' "$1"); do
    dpkg -s "$package" > /dev/null 2>&1 || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  if ! command -v apt-get > /dev/null; then say "install these first:$missing"; exit 1; fi
  say "installing$missing"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
}

# install_python VENV REQUIREMENTS: once for each content of the list.
install_python() {
  stamp=$1/.installed-$(cksum < "$2" | cut -d ' ' -f 1)
  [ -e "$stamp" ] && return 0
  say "installing $(grep -v '^#' "$2" | tr '\n' ' ')into $1 (up to 5 GB: minutes without a word)"
  [ -x "$1/bin/pip" ] || python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
  touch "$stamp"
}
