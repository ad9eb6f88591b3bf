"""The kernels compiled for the CPU, once for all tests here."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from simt.interpreter import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]) -> Path:
    """The folder with a library for each .cu file."""
    need(shutil.which("g++"), "g++")
    folder = tmp_path_factory.mktemp("simt")
    build(folder)
    return folder
