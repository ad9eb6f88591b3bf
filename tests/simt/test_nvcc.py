"""The kernels compile for the GPUs they are meant for, without a GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest
from simt.interpreter import FILES, SOURCES


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", FILES)
def test_nvcc_compiles(tmp_path: Path, file: str, architecture: str) -> None:
    """With the options of the launcher; and nothing spills, nor lies in local memory."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    flags = [
        "-cubin",
        f"-arch={architecture}",
        "--std=c++17",
        "--fmad=false",
        "-Xptxas",
        "-v",
        "-Werror",
        "all-warnings",
    ]
    done = subprocess.run(
        [nvcc, *flags, "-o", str(tmp_path / "out.cubin"), str(SOURCES / f"{file}.cu")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    frames = [line.strip() for line in done.stderr.splitlines() if "stack frame" in line]
    assert frames
    assert set(frames) == {"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"}
