#!/usr/bin/env bash
# Checks the kernels on the GPU of this machine: tests/gpu, the benchmark of the kernels, and memory checks.
#
#   bash scripts/gpu_check.sh [tests] [bench] [memory]       default: all three
#
# From a plain checkout: nothing is installed or fetched. PYTHON (default: .venv/bin/python where there is one, else
# python3) needs torch, cupy, numpy, mpi4py and pytest; what needs a package that is not there is left out, and said.
# Ends with a table, and writes gpu_check.json; OUT names another file, or a folder for it and the logs.
# Exit code: 0; 1 where a step failed or nothing could be checked; 3 where there is no GPU.
set -uo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="${PYTHON:-}"
if [[ -z $python ]]; then
    python=python3
    if [[ -x $root/.venv/bin/python ]]; then python="$root/.venv/bin/python"; fi
fi
json="${OUT:-gpu_check.json}"
if [[ -d $json ]]; then json="$json/gpu_check.json"; fi
case $json in /*) ;; *) json="$PWD/$json" ;; esac
if [[ -d ${OUT:-} ]]; then logs="$(cd -- "$OUT" && pwd -P)"; else logs="$(mktemp -d)"; fi
cd -- "$root"
export PYTHONPATH="$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>"$logs/gpu.log"; then
    echo "gpu_check: no GPU that $python's torch can use; nothing was checked" >&2
    exit 3
fi

names=() results=() seconds=() details=()
# step NAME COMMAND...: its output goes to a log, and to the terminal.
step() {
    local name="$1" start=$SECONDS log="$logs/${1//[ \/]/_}.log" code=0 missing
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    missing="$(grep -oE "No module named '[^']+'" "$log" | grep -v hpc_fl | head -1)"
    names+=("$name") seconds+=($((SECONDS - start)))
    if ((code == 0)); then
        results+=(ok) details+=("$(grep -E '[0-9]+ (passed|skipped)|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -1)")
    elif ((code == 5)); then # pytest: no tests were left to run
        results+=("left out") details+=("$(grep -E '^SKIPPED' "$log" | head -1)")
    elif [[ -n $missing ]]; then
        results+=("left out") details+=("$missing")
    else
        results+=(FAILED) details+=("exit code $code; $log")
    fi
}
left_out() {
    names+=("$1") results+=("left out") seconds+=(0) details+=("$2")
}

memory_script="$logs/memory.py"
cat >"$memory_script" <<'PYTHON'
import sys

import cupy
from laws.kernel_checks import Subject
from laws.kernels import check_backend

from hpc_fl.backends.choice import backend_of

cupy.cuda.set_allocator(None)  # each array an allocation of its own, with ends that can be overstepped
check_backend(Subject(backend_of(cupy.empty(0)), cupy.asarray, cupy.asnumpy), tuple(map(int, sys.argv[1:])))
PYTHON

if (($# == 0)); then set -- tests bench memory; fi
for what in "$@"; do
    case $what in
        tests)
            for file in tests/gpu/test_*.py; do
                step "$file" "$python" -m pytest -q "$file"
            done
            ;;
        bench)
            step "bench kernels" "$python" -m hpc_fl.bench kernels --device cuda --json "$logs/bench.json"
            ;;
        memory)
            if command -v compute-sanitizer >/dev/null; then
                step memcheck timeout 300 compute-sanitizer --error-exitcode 9 "$python" "$memory_script" 33 5003
                step racecheck timeout 300 compute-sanitizer --tool racecheck --error-exitcode 9 \
                    "$python" "$memory_script" 5003
            else
                left_out memcheck "compute-sanitizer is not on the PATH"
            fi
            ;;
        *)
            echo "gpu_check: '$what' given; tests, bench or memory expected" >&2
            exit 2
            ;;
    esac
done

{
    for i in "${!names[@]}"; do
        printf '%s\t%s\t%s\t%s\n' "${names[i]}" "${results[i]}" "${seconds[i]}" "${details[i]}"
    done
} | "$python" -c '
import json, sys
from pathlib import Path
import torch
target, bench = Path(sys.argv[1]), Path(sys.argv[2])
rows = [line.rstrip("\n").split("\t") for line in sys.stdin]
steps = [dict(zip(("step", "result", "seconds", "detail"), row)) for row in rows]
found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "steps": steps}
try:
    import cupy
    found["cupy"] = cupy.__version__
except ImportError:
    found["cupy"] = None
if bench.exists():
    found["bench"] = json.loads(bench.read_text())
target.write_text(json.dumps(found, indent=1) + "\n")
print("\n== " + found["gpu"])
for step in steps:
    print("{step:28} {result:9} {seconds:>5} s  {detail}".format(**step))
print(f"written: {target}")
results = [step["result"] for step in steps]
sys.exit("FAILED" in results or "ok" not in results)
' "$json" "$logs/bench.json"
