# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Sourced by the scripts beside it.

# shellcheck disable=SC2034  # used by whoever sources this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mesh-relay

say() { printf '== %s\n' "$*" >&2; }

# die MESSAGE REMEDY
die() {
    printf 'error: %s\n       %s\n' "$1" "$2" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# as_root WHY COMMAND... runs it directly, or through sudo, and says so.
as_root() {
    local why=$1
    shift
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        say "asking sudo for root, $why"
        sudo -- "$@"
    else
        die "root is needed $why, and there is no sudo" "Do the same as root, or install sudo."
    fi
}

# apt_knows PACKAGE: a fresh system has apt, but often no package lists yet.
apt_knows() { [[ -n $(apt-cache show --no-all-versions "$1" 2>/dev/null) ]]; }

# apt_update fetches the lists. apt leaves at once where another one is at it, and several scripts may be at work.
apt_update() {
    mkdir -p "$cache"
    (
        flock 8
        as_root "to fetch the package lists (apt-get update)" apt-get update -qq >&2 8>&-
    ) 8>"$cache/apt-lists.lock"
}

# apt_lists PACKAGE... fetches the lists unless they already name each package.
apt_lists() {
    local package
    have apt-get || die "this is not a Debian system; missing: $*" "Install them by other means, then try again."
    for package; do
        if ! apt_knows "$package"; then
            apt_update
            return
        fi
    done
}

# apt_install WHY PACKAGE... One at a time: the image's tests have several scripts at work at once.
apt_install() {
    local why=$1 lock
    shift
    mkdir -p "$cache"
    exec {lock}>"$cache/apt.lock"
    flock "$lock"
    apt_lists "$@"
    say "installing $*: $why"
    as_root "to install packages (apt-get install $*)" \
        env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@" >&2
    exec {lock}>&-
}

# need_venv PYTHON: Debian's comes without the modules that make an environment.
need_venv() {
    ! "$1" -c 'import ensurepip, venv' 2>/dev/null || return 0
    [[ $("$1" -c 'import sys; print(sys.prefix)') == /usr ]] ||
        die "$1 comes without the modules venv and ensurepip" "Name a complete one: make PYTHON=/usr/bin/python3 ..."
    apt_install "the relay gets a Python environment of its own with that" python3-venv
}

need_mmdebstrap() {
    local missing=()
    have mmdebstrap || missing+=(mmdebstrap)
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
    ((${#missing[@]} == 0)) || apt_install "another Debian is unpacked with that" "${missing[@]}"
}
