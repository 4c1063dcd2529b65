#!/usr/bin/env bash
# Makes this checkout ready to work in: a virtual environment in .venv, the Python packages, and the
# Debian packages that tests and demo drive. Does what is missing and nothing else, so that it may
# be run before everything; the second run takes well under a second.
#
# usage: scripts/bootstrap.sh [PROGRAM ...]
#   PROGRAM   programs wanted from Debian or Ubuntu, such as nginx or redis-server. They are
#             installed where that is possible without asking for a password. What cannot be had is
#             reported loudly, and is no failure here: tests which need it say so themselves.
#
# environment: PYTHON   the interpreter to build .venv with (3.11 or later; found by itself if unset)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv
readonly stamp=$venv/.bootstrapped
# With the environment activated, `python3` is the one that is about to be replaced.
PATH=${PATH//"$PWD/$venv/bin:"/}

readonly policy=/usr/sbin/policy-rc.d
readonly policy_mark='written by nexus-auth scripts/bootstrap.sh'

say() { printf '==> %s\n' "$*" >&2; }

warn() {
    printf '\n!!! %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '!!! %s\n' "$@" >&2
    printf '\n' >&2
}

die() {
    warn "$@"
    exit 1
}

# --- Debian packages -------------------------------------------------------------------------

as_root=()
can_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" -eq 0 ] && return 0
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
        return 0
    fi
    return 1
}

# Debian starts a service as soon as its package is installed. A test run must not leave a web
# server behind on somebody's port 80: policy-rc.d is the documented way to forbid it.
forbid_service_starts() {
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\n# %s\nexit 101\n' "$policy_mark" | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
}

# Takes away only what is ours, also when an earlier run was killed before it could.
allow_service_starts() {
    if [ -e "$policy" ] && grep -qF "$policy_mark" "$policy" 2>/dev/null; then
        "${as_root[@]}" rm -f "$policy" || true
    fi
}

apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

lists_renewed=no
apt_install() { # PACKAGE ...; quietly, but what apt said is shown when it failed
    local log
    log=$(mktemp)
    if apt_get install --yes --no-install-recommends "$@" >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    # Package lists that are missing or too old are the usual cause.
    if [ "$lists_renewed" = no ]; then
        lists_renewed=yes
        if apt_get update >>"$log" 2>&1 &&
            apt_get install --yes --no-install-recommends "$@" >>"$log" 2>&1; then
            rm -f "$log"
            return 0
        fi
    fi
    tail -n 5 "$log" >&2
    rm -f "$log"
    return 1
}

has_program() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

install_programs() { # PACKAGE ...; each has a program of its name, but for procps
    local program missing=()
    for program in "$@"; do
        has_program "${program/procps/pkill}" || missing+=("$program")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    if can_install; then
        say "installing Debian packages: ${missing[*]}"
        trap allow_service_starts EXIT
        forbid_service_starts
        # All at once is fastest; one by one when one of them does not exist here.
        apt_install "${missing[@]}" || for program in "${missing[@]}"; do
            apt_install "$program" || true
        done
        if [ -d /run/systemd/system ]; then
            for program in "${missing[@]}"; do # nor at the next boot
                "${as_root[@]}" systemctl disable --quiet "$program" 2>/dev/null || true
            done
        fi
        allow_service_starts
        trap - EXIT
    fi

    local still=()
    for program in "${missing[@]}"; do
        has_program "${program/procps/pkill}" || still+=("$program")
    done
    if [ ${#still[@]} -gt 0 ]; then
        warn "NOT INSTALLED: ${still[*]}" \
            "What needs them is left out. To have them, run as root:" \
            "    apt-get update && apt-get install ${still[*]}"
    fi
}

# --- Python ----------------------------------------------------------------------------------

readonly is_recent='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c "$is_recent" >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

create_venv() {
    local python version
    python=$(find_python) || die "Python 3.11 or later was not found." \
        "Install it, or name it: make PYTHON=/path/to/python3.11 ..."
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

    # Debian and Ubuntu keep what `python3 -m venv` needs in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        if can_install; then
            say "installing the Debian package python$version-venv"
            apt_install "python$version-venv" || apt_install python3-venv || true
        fi
        "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
            die "$python cannot make virtual environments: it lacks ensurepip." \
                "Run as root: apt-get update && apt-get install python$version-venv"
    fi

    say "creating $venv with $python ($version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

install_packages() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        "$venv/bin/python" -m ensurepip >/dev/null # a venv made by uv has no pip
    say "installing Python packages into $venv"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
        --editable '.[dev]' </dev/null
    rm -rf .mypy_cache # mypy goes on believing that a package is missing
}

# Scripts in a virtual environment hold its path, and packages follow pyproject.toml: a checkout
# that was moved, or whose requirements changed, is set up again.
wanted_stamp() {
    printf '%s\n' "$PWD"
    sha256sum pyproject.toml
}

make_venv_ready() {
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "$is_recent" 2>/dev/null; then
        if [ -f "$stamp" ]; then
            [ "$(cat "$stamp")" != "$(wanted_stamp)" ] || return 0
            [ "$(head -n 1 "$stamp")" = "$PWD" ] || create_venv
        fi
    else
        create_venv
    fi
    rm -f "$stamp"
    install_packages
    wanted_stamp >"$stamp"
}

install_programs "$@"
make_venv_ready
