"""The party x label matrix, its picture and its table."""

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hpc_fl.data import ArraySource, draw, label_matrix, partition, table
from hpc_fl.errors import DataError

SOURCE = ArraySource(np.zeros((200, 1)), np.arange(200) % 20)


def printed(matrix: np.ndarray) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(matrix))
    return capture.get()


@pytest.mark.parametrize("parties", [1, 5, 40])
def test_the_matrix_sums_to_sizes_and_to_labels(parties: int) -> None:
    made = partition.dirichlet(SOURCE, parties, rng=np.random.default_rng(0), alpha=0.2)
    matrix = label_matrix(SOURCE, made)
    assert matrix.shape == (parties, 20)
    np.testing.assert_array_equal(matrix.sum(axis=1), made.sizes)
    np.testing.assert_array_equal(matrix.sum(axis=0), np.full(20, 10))


@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (1000, 100)])
def test_a_picture_is_written_for_any_size(shape: tuple[int, int], tmp_path: Path) -> None:
    draw(np.random.default_rng(0).integers(0, 50, shape), tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_shows_all_of_a_small_matrix() -> None:
    text = printed(np.array([[3, 0, 41], [0, 5, 6]]))
    assert "2 parties, 55 samples" in text
    assert "41" in text
    assert "more parties" not in text


def test_a_table_of_many_parties_is_cut_with_a_summary() -> None:
    matrix = np.ones((1000, 30), np.int64)
    matrix[999, 29] = 71
    text = printed(matrix)
    assert len(text.splitlines()) < 30
    assert "980 more parties with 30 to 100 samples, 30.1 on average" in " ".join(text.split())
    assert re.search(r"\d+\.\.29\b", text)


@pytest.mark.parametrize("largest", [1, 10**3, 10**5])
def test_a_table_fits_a_terminal_of_80_columns(largest: int) -> None:
    matrix = np.full((1000, 100), largest)
    assert "…" not in printed(matrix)
    assert all(str(row.sum()) in printed(matrix) for row in matrix[:3])


def test_without_labels_there_is_no_matrix() -> None:
    source = ArraySource(np.zeros((4, 1)), np.zeros(4))
    parts = partition.shuffle(source, 2, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="one label per sample"):
        label_matrix(source, parts)
