#!/usr/bin/env bash
# From a fresh checkout to a trained model: makes .venv where needed, then trains configs/digits.yaml on 4
# ranks of this machine.
#
#   bash scripts/quickstart.sh [-n RANKS] [key.sub=value ...] [any option of hpc-fl train]
#
# Works from any directory; paths in the arguments are relative to the checkout. The exit code is that of
# hpc-fl train.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
bash "$root/scripts/setup.sh" all
cd -- "$root"

# The folder of the run: as asked for, else the newest.
runs=runs run_dir='' previous=''
for argument in "$@"; do
    case "$argument" in
    --run-dir=*) run_dir="${argument#*=}" ;;
    runs=*) runs="${argument#*=}" ;;
    esac
    [[ "$previous" != --run-dir ]] || run_dir="$argument"
    previous="$argument"
done

before="$(mktemp)"
trap 'rm -f -- "$before"' EXIT
.venv/bin/python -m hpc_fl train configs/digits.yaml -n 4 "$@"

[[ -n "$run_dir" ]] || run_dir="$(ls -td -- "$runs"/*/ 2>/dev/null | head -n 1 || true)"
for name in report.html curves.png; do
    # Only what this run wrote: --dry-run and telemetry.report=false leave nothing.
    file="$(realpath -m -- "$run_dir/$name")"
    if [[ "$file" -nt "$before" ]]; then
        printf '%s: %s\n' "$name" "$file"
    fi
done
