#!/usr/bin/env bash
# The Debian packages Nova is built from and runs on.
#
#   tools/packages.sh list                what this release of Debian needs, one name a line
#   tools/packages.sh missing             those of them that are not installed
#   tools/packages.sh install NAME...     installs them; needs root; ./dev calls it
#
# `install` leaves the machine's own services alone: nothing it brings is started, now or at boot, and no PostgreSQL
# cluster is created. Nova runs its own, private ones.
# Exit status: 0 done, 2 usage, 3 this machine cannot be served.
set -euo pipefail
shopt -s inherit_errexit

readonly policy=/usr/sbin/policy-rc.d
readonly policy_mark="Written by Nova's ./dev while it installs packages; safe to delete."
readonly cluster_dir=/etc/postgresql-common/createcluster.d
readonly cluster_conf=$cluster_dir/nova-installs.conf
# The packages that bring a daemon of the same name.
readonly daemons=(pgbouncer redis-server)

fail() {
  local status=$1
  shift
  printf 'dev: %s\n' "$*" >&2
  exit "$status"
}

# The release this machine runs, such as "debian 12".
release() {
  [[ -r /etc/os-release ]] || fail 3 "no /etc/os-release: Nova builds on Debian 12 or 13"
  # shellcheck source=/dev/null
  (. /etc/os-release && printf '%s %s\n' "${ID:-unknown}" "${VERSION_ID:-}")
}

list() {
  local boost running
  running=$(release)
  case $running in
    "debian 12") boost=1.81 ;;
    "debian 13") boost=1.83 ;;
    *) fail 3 "'$running' is not supported: Nova builds on Debian 12 or 13 (a container of debian:12 will do)" ;;
  esac
  printf '%s\n' \
    clang-19 lld-19 clang-format-19 libclang-rt-19-dev llvm-19 cmake ninja-build ccache pkg-config \
    libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libprotoc-dev \
    "libboost$boost-dev" "libboost-json$boost-dev" libpq-dev libssl-dev libsodium-dev prometheus-cpp-dev \
    libspdlog-dev libfmt-dev libyaml-cpp-dev libicu-dev libhiredis-dev libpcap-dev libgtest-dev libgmock-dev \
    postgresql pgbouncer redis-server openssl python3 python3-venv python3-grpcio python3-protobuf git ca-certificates procps iproute2
}

# Those of the given packages that are not installed; asks dpkg only.
not_installed() {
  local installed name
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for name in "$@"; do
    grep -qxF "$name installed" <<<"$installed" || printf '%s\n' "$name"
  done
}

missing() {
  local names
  names=$(list)
  mapfile -t names <<<"$names"
  not_installed "${names[@]}"
}

# Turns apt's status lines ("pmstatus:libpq-dev:41.5:Unpacking libpq-dev") into progress: one line that is rewritten
# on a terminal, else one line per tenth.
show_progress() {
  local kind text percent phase previous="" shown=-1
  while IFS=: read -r kind _ percent text; do
    case $kind in
      dlstatus) phase=downloading ;;
      pmstatus) phase=installing ;;
      *) continue ;;
    esac
    percent=${percent%%.*}
    [[ $percent =~ ^[0-9]+$ ]] || continue
    [[ $phase == "$previous" ]] || shown=-1
    previous=$phase
    if [[ -t 1 ]]; then
      printf '\r\033[K  %3d %%  %s  %.60s' "$percent" "$phase" "$text"
    elif ((percent / 10 > shown)); then
      shown=$((percent / 10))
      printf '  %3d %%  %s\n' "$percent" "$phase"
    fi
  done
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
}

# Set where `install` must undo something; global because the trap reads them.
log="" made_policy="" made_cluster_conf=""
restore() {
  if [[ $made_policy ]]; then rm -f "$policy"; fi
  if [[ $made_cluster_conf ]]; then rm -f "$cluster_conf"; fi
  if [[ $log ]]; then rm -f "$log"; fi
}

apt() {
  # Descriptor 3 carries the progress; everything else goes to the log, which is shown only when it fails.
  if ! apt-get -q -y -o APT::Status-Fd=3 -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 "$@" \
    3>&1 >>"$log" 2>&1 </dev/null | show_progress; then
    tail -n 25 "$log" >&2
    fail 3 "apt-get failed (its last lines are above); repair it with: apt-get update && apt-get install -f"
  fi
}

install() {
  (($#)) || fail 2 "usage: tools/packages.sh install NAME..."
  ((EUID == 0)) || fail 3 "only root may install packages"
  local fresh name
  fresh=$(not_installed "${daemons[@]}")
  trap restore EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive

  # A machine's own policy stays; one that a killed run left behind is ours again.
  if [[ ! -e $policy ]] || grep -qF "$policy_mark" "$policy"; then
    made_policy=yes
    printf '#!/bin/sh\n# %s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
  fi
  if ! dpkg-query -W -f='${db:Status-Status}\n' 'postgresql-[0-9]*' 2>/dev/null | grep -qx installed; then
    made_cluster_conf=yes
    mkdir -p "$cluster_dir"
    printf '# %s\ncreate_main_cluster = false\n' "$policy_mark" >"$cluster_conf"
  fi

  apt update
  apt install --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"

  # The policy kept the new daemons from starting now; this keeps them from starting at the next boot.
  for name in $fresh; do
    update-rc.d "$name" disable >>"$log" 2>&1 || true
  done
}

case ${1:-} in
  list | missing) "$1" ;;
  install) "$@" ;;
  *) fail 2 "usage: tools/packages.sh list | missing | install NAME..." ;;
esac
