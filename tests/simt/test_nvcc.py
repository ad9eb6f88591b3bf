"""The kernels compile for the GPUs they are meant for, without a GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from simt.interpreter import FILES, SOURCES


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", FILES)
def test_nvcc_compiles(tmp_path: Path, file: str, architecture: str) -> None:
    """With the options of the launcher; and no array lies in local memory, which is slow."""
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
    frames = [int(size) for size in re.findall(r"(\d+) bytes stack frame", done.stderr)]
    assert frames
    assert max(frames) <= 16
