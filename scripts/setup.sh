#!/usr/bin/env bash
# Makes .venv beside this folder with the package (editable) and its dependencies in the tested versions.
#
#   bash scripts/setup.sh [all|dev]     all: what runs need (default); dev: also what the tests need
#
# Needs Python 3.11 or later with its venv module, and a package index that pip knows of. $PYTHON chooses the
# interpreter. Once .venv is up to date this returns at once and needs no network: .venv/hpc_fl.stamp holds
# a sum of everything that decided its contents, and what was installed.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
stamp="$venv/hpc_fl.stamp"
extra="${1:-all}"

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# The folder counts too: a venv holds absolute paths, and a copy of it would run the original's code.
wanted_sum() {
    { cat -- pyproject.toml constraints.txt setup.py scripts/setup.sh kernels/cpu/* && printf '%s\n' "$root"; } | sha256sum
}

# dev contains all.
up_to_date() {
    local found_sum='' found_extra=''
    [[ -x "$venv/bin/python" && -r "$stamp" ]] || return 1
    { read -r found_sum && read -r found_extra; } <"$stamp" || return 1
    [[ "$found_sum" == "$sum" && ("$found_extra" == "$extra" || "$found_extra" == dev) ]]
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        [[ "$candidate" != "${PYTHON:-}" ]] || fail "PYTHON=$PYTHON is not a Python 3.11 or later"
    done
    fail "no Python 3.11 or later on PATH: install one, or name it: PYTHON=/path/to/python3 bash ..."
}

make_venv() {
    local python
    python="$(find_python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail \
        "$(command -v "$python") has no venv module: on Debian or Ubuntu" \
        "    apt-get install python3-venv" \
        "elsewhere choose another interpreter: PYTHON=/path/to/python3 bash ..."
    "$python" -m venv --clear "$venv"
}

# Whether $venv works, is of this folder (not copied or moved here) and new enough.
usable_venv() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && "$venv/bin/python" - "$venv" 2>/dev/null <<'PYTHON'
import os, sys
script = open(os.path.join(sys.argv[1], "bin", "pip")).read(1000)
sys.exit(sys.version_info < (3, 11) or sys.argv[1] + "/bin/python" not in script)
PYTHON
}

# Quiet twice: errors only. One -q leaves a warning for each index or folder in the machine's configuration that
# does not exist.
pip_install() {
    "$venv/bin/python" -m pip --disable-pip-version-check -qq install -c constraints.txt "$@" || fail \
        "pip install $* failed, see above; to see all that pip says, in $root:" \
        "    .venv/bin/python -m pip -v install -c constraints.txt $*"
}

set_up() {
    printf 'setup: installing into %s (torch alone is 200 MB to 3 GB; once)\n' "$venv" >&2
    usable_venv || make_venv
    rm -f -- "$stamp"
    # torch first and alone: its build must be decided by where this machine gets torch from, not by what else
    # is to be installed.
    pip_install "$(grep '^torch==' constraints.txt)"
    # The package is built with the pinned setuptools, in place: no second download, and none at all when only
    # pyproject.toml has changed.
    pip_install "$(grep '^setuptools==' constraints.txt)"
    pip_install --no-build-isolation --editable ".[$extra]"
    # A script beside the checkout would take the checkout's folder, hpc_fl, for the package itself, unless the
    # real one is on the path as well: what setuptools adds for an editable package is only asked after that.
    printf '%s\n' "$root" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hpc_fl_checkout.pth"
    compgen -G 'kernels/_cpu*.so' >/dev/null || printf 'setup: %s\n' \
        'the C++ kernels could not be compiled: compression will run on the slow reference. Is g++ installed?' >&2
    printf '%s\n%s\n' "$sum" "$extra" >"$stamp"
}

case "$extra" in
all | dev) ;;
*) fail "'$extra': expected all or dev" ;;
esac
cd -- "$root"
sum="$(wanted_sum)"
up_to_date || set_up
