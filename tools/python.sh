#!/usr/bin/env bash
# The Python environment of the tests: Debian's interpreter with Debian's packages, and beside them those of
# tests/requirements.txt.
#
#   tools/python.sh missing FOLDER      prints FOLDER if it is not there, or not as tests/requirements.txt wants it
#   tools/python.sh install FOLDER      makes it; ./dev calls it
#
# Exit status: 0 done, 2 usage, 3 a package cannot be had.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly requirements=tests/requirements.txt

fail() {
  local status=$1
  shift
  printf 'dev: %s\n' "$*" >&2
  exit "$status"
}

# The last thing that `install` writes.
is_complete() { [[ -x $1/bin/python ]] && cmp -s "$requirements" "$1/requirements.txt"; }

install() {
  local folder=$1 log
  log=$(mktemp)
  trap 'rm -f "$log"' RETURN
  rm -rf "$folder"
  mkdir -p "$(dirname "$folder")"
  if ! { /usr/bin/python3 -m venv --system-site-packages "$folder" &&
    "$folder/bin/python" -m pip install --disable-pip-version-check --quiet --retries 3 -r "$requirements"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail 3 "the Python packages of $requirements cannot be installed (pip's last lines are above)"
  fi
  cp "$requirements" "$folder/requirements.txt"
}

(($# == 2)) || fail 2 "usage: tools/python.sh missing | install FOLDER"
case $1 in
  missing) is_complete "$2" || printf '%s\n' "$2" ;;
  install) install "$2" ;;
  *) fail 2 "usage: tools/python.sh missing | install FOLDER" ;;
esac
