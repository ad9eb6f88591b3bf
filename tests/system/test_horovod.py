"""Horovod as the transport of whole jobs: the laws under mpirun, runs that equal those over MPI, its end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest

from hpc_fl.comm.launch import environment, mpirun_command
from hpc_fl.errors import EXIT_CONFIG
from hpc_fl.telemetry import read_jsonl

ROOT = Path(__file__).parents[2]
LIMIT = 300.0
SMALL = [
    "data.name=synthetic", "data.samples=200", "data.shape=[6]", "data.classes=3", "data.test_samples=40",
    "parties=5", "model=mlp", "training.epochs=1", "training.executor=loop", "rounds=2",
    "telemetry.report=false", "telemetry.tensorboard=false",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("mpi")


@pytest.fixture
def horovod(need: Callable[[object, str], None]) -> None:
    need(find_spec("horovod"), "Horovod: run bash scripts/install_horovod.sh")


def run(command: list[str], folder: Path = ROOT, **more: str) -> tuple[int, str]:
    """The exit code and what was said; a job that takes too long is killed, and fails the test."""
    env = {k: v for k, v in environment().items() if not k.startswith(("OMPI_COMM", "PMIX_"))}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more, process_group=0, text=True,
        errors="replace",
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # twice: the launcher then kills its job
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"still running after {LIMIT} s: {' '.join(command)}\n{output}")
    return process.returncode, output


def run_ranks(ranks: int, folder: Path, body: str) -> tuple[int, str]:
    """Run `body` on each rank."""
    script = folder / "rank.py"
    script.write_text(dedent(body))
    launcher = (
        "import sys; from hpc_fl.comm.launch import launch; sys.exit(launch({}, [sys.executable, {!r}]))"
    )
    return run([sys.executable, "-c", launcher.format(ranks, str(script))])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.usefixtures("horovod")
def test_the_laws_hold(ranks: int) -> None:
    pytest_args = ["-p", "no:cacheprovider", "-q", "-x", "--color=no"]
    program = [sys.executable, "-m", "pytest", "tests/parallel_horovod", *pytest_args]
    code, output = run(mpirun_command(ranks, program), HPC_FL_REQUIRE="all")
    assert code == 0, output
    assert output.count(" passed") == ranks, output


@pytest.mark.parametrize("codec", ["identity", "topk"])
@pytest.mark.usefixtures("horovod")
def test_a_run_equals_the_one_over_mpi(codec: str, tmp_path: Path) -> None:
    """Dense sums and compressed payloads: the same losses to rounding, the same bytes, exit code 0."""
    records = {}
    for name in ("mpi", "horovod"):
        words = [*SMALL, f"exchange.codec={codec}", "exchange.dense.algorithm=mpi"]
        words += [f"comm.transport={name}", "--run-dir", name]
        code, output = run([sys.executable, "-m", "hpc_fl", "train", "-n", "2", *words], tmp_path)
        assert code == 0, output
        records[name] = read_jsonl(tmp_path / name / "metrics.jsonl")
        said = (tmp_path / name / "versions.json").read_text()
        assert ("Horovod 0.28" in said) == (name == "horovod")
    assert len(records["mpi"]) == 2
    for ours, theirs in zip(records["horovod"], records["mpi"], strict=True):
        for key in ("loss", "accuracy", "train_loss"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5)
        assert ours["bytes_sent"] == theirs["bytes_sent"]


@pytest.mark.usefixtures("horovod")
@pytest.mark.parametrize("algorithm", ["auto", "ring"])
def test_horovod_adds_up_the_updates(algorithm: str, tmp_path: Path) -> None:
    """In a run over it, once a round, unless another algorithm is named."""
    code, output = run_ranks(
        2,
        tmp_path,
        f"""
        from hpc_fl import load_config
        from hpc_fl.comm.horovod import HorovodTransport
        from hpc_fl.session import train

        config = load_config(None, {[*SMALL, "comm.transport=horovod"]} + [
            "exchange.dense.algorithm={algorithm}", "telemetry.progress=false", "runs={tmp_path}/runs"
        ])
        begun, begin = [], HorovodTransport._begin
        def noted(self, what, *args, **more):
            begun.append(what)
            return begin(self, what, *args, **more)
        HorovodTransport._begin = noted
        n = sum(p.numel() for p in train(config).model.parameters())
        sums = [w for w in begun if w.startswith("allreduce sum of") and int(w.split()[3]) >= n]
        assert len(sums) == (config.rounds if "{algorithm}" == "auto" else 0), begun
        print("DONE", flush=True)
        """,
    )
    assert code == 0, output
    assert output.count("DONE") == 2, output


@pytest.mark.usefixtures("horovod")
def test_it_ends_and_starts_again(tmp_path: Path) -> None:
    """In one process: on the world, on a part of it in another order of ranks, and left without close."""
    code, output = run_ranks(
        3,
        tmp_path,
        """
        import numpy as np
        from mpi4py import MPI
        from hpc_fl.comm.runtime import guard, start

        world = MPI.COMM_WORLD
        for round in range(3):
            part = world.Split(0 if world.rank < 2 or round != 1 else MPI.UNDEFINED, -world.rank)
            if part == MPI.COMM_NULL:
                continue
            transport = start(part, timeout=60.0, transport="horovod")
            assert transport.rank == part.rank
            with guard(transport):
                ranks = np.zeros(part.size, np.int64)
                transport.allgather(np.array([world.rank]), ranks)
                assert ranks.tolist() == list(range(part.size))[::-1], ranks
            if round < 2:
                transport.close()
                transport.close()
        print("DONE", flush=True)
        """,
    )
    assert code == 0, output
    assert output.count("DONE") == 3, output


@pytest.mark.usefixtures("horovod")
def test_when_horovod_ends_nothing_hangs(tmp_path: Path) -> None:
    """Shut down by one rank: what others have under way fails, and what they begin after it."""
    code, output = run_ranks(
        3,
        tmp_path,
        """
        import numpy as np
        from hpc_fl.comm.runtime import start
        from hpc_fl.errors import TransportError

        transport = start(timeout=60.0, transport="horovod")
        transport.allreduce(np.ones(3))
        if transport.rank == 1:
            transport._hvd.shutdown()
        else:
            begun = []

            def fails(call):
                try:
                    call()
                except TransportError as error:
                    assert "shut down" in str(error), error
                    return True
                return False

            for _ in range(100):  # what begins before the news has come fails later
                fails(lambda: begun.append(transport.iallreduce(np.ones(3))))
            for request in begun:
                assert fails(request.wait) and fails(request.done)
            assert all(fails(lambda: transport.allreduce(np.ones(3))) for _ in range(100))
        print("DONE", flush=True)
        """,
    )
    assert code == 0, output
    assert output.count("DONE") == 3, output


FAILING = """
    import os, signal, sys
    import numpy as np
    from hpc_fl.comm.runtime import guard, start
    from hpc_fl.errors import DataError

    transport = start(transport="horovod")
    with guard(transport):
        transport.allreduce(np.ones(3))
        if transport.rank == 1:
            print("FAILING", flush=True)
            {failure}
        transport.allreduce(np.ones(3))
"""


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        ("raise DataError('no such file')", 1, "rank 1: DataError: no such file"),
        ("os.kill(os.getpid(), signal.SIGKILL)", None, "FAILING"),
        ("sys.exit(7)", 7, "left with exit code 7"),
    ],
    ids=["error", "killed", "exit"],
)
@pytest.mark.usefixtures("horovod")
def test_a_failing_rank_ends_the_job(failure: str, code: int | None, said: str, tmp_path: Path) -> None:
    """While the others wait in Horovod: with the promised exit code."""
    got, output = run_ranks(3, tmp_path, FAILING.format(failure=failure))
    assert got != 0, output
    assert code is None or got == code, output
    assert said in output
    assert "Horovod has been shut down" not in output


def test_without_horovod_nothing_is_started(tmp_path: Path) -> None:
    """One line that says what to run; also where it is there and cannot be loaded."""
    hidden = "import sys; sys.modules['horovod'] = None; from hpc_fl.cli import main; sys.exit(main())"
    program = [sys.executable, "-c", hidden, "train", "-n", "2", *SMALL, "comm.transport=horovod"]
    code, output = run(program, tmp_path)
    assert code == EXIT_CONFIG, output
    assert output.count("\n") == 1
    assert "comm.transport" in output
    assert "bash scripts/install_horovod.sh" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("horovod")
def test_installing_again_does_nothing(need: Callable[[object, str], None]) -> None:
    """With the stamp that tells what was tried: no output, and nothing is changed."""
    stamp = Path(sys.prefix) / "hpc_fl_horovod.stamp"
    need(stamp.exists(), "Horovod as scripts/install_horovod.sh installs it")
    before = stamp.stat().st_mtime_ns
    code, output = run(["bash", str(ROOT / "scripts" / "install_horovod.sh")])
    assert (code, output) == (0, "")
    assert stamp.stat().st_mtime_ns == before


def test_the_installer_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "install_horovod.sh", tmp_path / "scripts")
    code, output = run(["bash", str(script)])
    assert code == 1
    assert "bash scripts/setup.sh" in output
