#!/usr/bin/env bash
# All checks: ruff, formatting, types, tests. Makes .venv where needed.
#
#   bash scripts/test.sh [pytest arguments]       e.g. tests/unit/test_flat.py -x
#
# Works from any directory; paths in the arguments are relative to the checkout. Every step runs even where one
# before it failed; pytest is last. The exit code is pytest's, or 1 where another step failed.
# HPC_FL_REQUIRE=all: a test that would be skipped for want of something fails instead.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
bash "$root/scripts/setup.sh" dev
cd -- "$root"

# For the virtual cluster and for a Slurm of the tests' own; the tests say so themselves where one cannot be had.
packages=()
need_program() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || packages+=("$2")
}
need_program tc iproute2
need_program munged munge
need_program slurmctld slurmctld
need_program slurmd slurmd
need_program sbatch slurm-client
if ((${#packages[@]})); then
    { ((EUID == 0)) && apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}"; } >/dev/null ||
        printf 'test: no %s, and apt-get cannot install it here: its tests cannot run\n' "${packages[@]}" >&2
fi

failed=()
step() {
    printf '== %s\n' "$*"
    .venv/bin/python -m "$@" || failed+=("$*")
}
step ruff check .
step ruff format --check .
step mypy
if ((${#failed[@]})); then
    printf '== failed: %s\n' "${failed[@]}"
fi

# Tests of one process run on all cores at once, one thread each; those that start ranks have the machine to
# themselves.
code=0
if (($# == 0)); then
    printf '== pytest tests/unit tests/parallel tests/simt\n'
    OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile --durations=8 tests/unit tests/parallel tests/simt || code=$?
    set -- tests/system
fi
# Built once for all checkouts, in minutes. Its tests are skipped without it, or fail with HPC_FL_REQUIRE=all.
case " $* " in
*horovod* | *" tests "* | *" tests/ "* | *" tests/system "* | *" tests/system/ "*)
    bash scripts/install_horovod.sh || printf 'test: no Horovod (see above): its tests cannot run\n' >&2
    ;;
esac
printf '== pytest %s\n' "$*"
.venv/bin/python -m pytest --durations=8 "$@" || code=$?
if ((code == 0 && ${#failed[@]})); then
    code=1
fi
exit "$code"
