"""What scripts/setup.sh leaves, and what the batch template says before anything has started."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_script_beside_the_checkout_finds_the_package(tmp_path: Path) -> None:
    """And not the checkout's folder, which has the package's name."""
    (tmp_path / "hpc_fl").symlink_to(ROOT)
    (tmp_path / "mine.py").write_text("import hpc_fl; print(hpc_fl.from_arrays.__name__)")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "mine.py"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout == "from_arrays\n", done.stderr


def test_a_job_from_the_wrong_folder_says_so(tmp_path: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "4",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "slurm/train.sbatch")],
        env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"train.sbatch: no {tmp_path}/.venv/bin/python: submit from the checkout")
