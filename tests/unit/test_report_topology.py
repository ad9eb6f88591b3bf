"""Laws of the drawing of a topology: every edge is there, nothing covers a name, every graph can be drawn."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc_fl.errors import HpcFlError
from hpc_fl.report import write_report
from hpc_fl.report.canvas import plotting
from hpc_fl.report.drawing import MOST_ARROWS, MOST_NAMED, MOST_PANELS, caption, topology
from hpc_fl.report.folder import read_run
from hpc_fl.topology import MixingMatrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytest.importorskip("matplotlib")

Step = list[list[float]]
GRAPHS = ("ring", "exponential", "one-peer", "complete")
SIZES = (1, 2, 5, 16, 64, 65)


def circulant(size: int, hops: list[int]) -> Step:
    """Every node takes of those ``hops`` before it, self-weights included."""
    weight = 1 / (len(hops) + 1)
    dense = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for hop in [0, *hops]:
            dense[i][(i - hop) % size] += weight
    matrix = MixingMatrix.from_dense(dense)
    return [[j, i, w] for i, row in enumerate(matrix.rows) for j, w in row.items()]


def steps_of(graph: str, size: int) -> list[Step]:
    powers = [2**k for k in range(max(1, (size - 1).bit_length()))]
    hops = {
        "ring": [[1, -1]],
        "exponential": [powers],
        "one-peer": [[power] for power in powers],
        "complete": [list(range(1, size))],
    }
    return [circulant(size, step) for step in hops[graph]]


def folder(
    path: Path, steps: list[Step], size: int, ranks: int = 3, changes: dict[str, Any] | None = None
) -> Path:
    path.mkdir(exist_ok=True)
    (path / "metrics.jsonl").write_text('{"round": 1, "elapsed": 0.1}\n')
    said = {
        "name": "<graph>",
        "size": size,
        "directed": False,
        "gap": 0.1875,
        "rounds_to_consensus": 34,
        "period": len(steps),
        "steps": steps,
        "ranks": [node % ranks for node in range(size)],
    }
    (path / "topology.json").write_text(json.dumps(said | (changes or {})))
    return path


def drawn(path: Path) -> "Figure":
    figure = topology(read_run(path))
    assert figure is not None
    return figure


def edges_of(step: Step, directed: bool) -> set[Any]:
    pairs = [(j, i) for j, i, _ in step if i != j]
    return set(pairs) if directed else set(map(frozenset, pairs))


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_edge_and_node_is_drawn_once(tmp_path: Path, graph: str, size: int, directed: bool) -> None:
    steps = steps_of(graph, size)
    with plotting():
        figure = drawn(folder(tmp_path, steps, size, changes={"directed": directed}))
    for axis, step in zip(figure.axes, steps[:MOST_PANELS], strict=False):
        *lines, nodes = axis.collections
        segments = sum(len(collection.get_paths()) for collection in lines)
        edges = edges_of(step, directed)
        arrows = directed and size <= MOST_NAMED and len(edges) <= MOST_ARROWS
        assert (len(axis.patches), segments)[:: 1 if arrows else -1] == (len(edges), 0)
        assert len(nodes.get_offsets()) == size  # type: ignore[arg-type]


@pytest.mark.parametrize("ranks", [1, 3, 30])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("graph", ["ring", "one-peer"])
def test_names_cover_neither_each_other_nor_a_node_and_stay_inside(
    tmp_path: Path, graph: str, size: int, ranks: int
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    changes = {"directed": graph == "one-peer"}
    with plotting():
        figure = drawn(folder(tmp_path, steps_of(graph, size), size, ranks, changes))
        FigureCanvasAgg(figure).draw()  # Lays it out.
        page = figure.bbox
        for axis in figure.axes:
            boxes = [text.get_window_extent() for text in axis.texts]
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
            assert all(page.contains(*corner) for box in boxes for corner in box.corners())
            nodes = axis.collections[-1] if axis.texts else None
            for x, y in axis.transData.transform(nodes.get_offsets()) if nodes else ():
                assert not any(box.contains(x, y) for box in boxes)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert ("0" in names) == (size <= MOST_NAMED)
    assert graph != "ring" or len(names) == (size if size <= MOST_NAMED else 0)


def test_heavier_edges_are_thicker_and_nodes_of_a_rank_alike(tmp_path: Path) -> None:
    step: Step = [[0, 1, 0.1], [1, 0, 0.1], [1, 2, 0.4], [2, 1, 0.4]]
    with plotting():
        figure = drawn(folder(tmp_path, [step], 4, ranks=2))
    lines, nodes = figure.axes[0].collections
    light, heavy = lines.get_linewidth()  # type: ignore[misc]
    assert light == pytest.approx(heavy / 4)
    first, second, third, fourth = map(tuple, nodes.get_facecolor())  # type: ignore[arg-type]
    assert first == third != second == fourth
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["rank 0", "rank 1"]


def test_a_period_has_a_panel_a_step_and_no_more_than_can_be_seen(tmp_path: Path) -> None:
    for count in (1, 2, 5, 8, 16):
        with plotting():
            figure = drawn(folder(tmp_path, steps_of("ring", 5) * count, 5))
        assert sum(bool(axis.collections) for axis in figure.axes) == min(count, MOST_PANELS)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ["<graph>: 5 nodes, undirected", "gap 0.188", "after 34 rounds"]),
        ({"directed": True, "gap": None, "rounds_to_consensus": None}, ["5 nodes, directed. "]),
        ({"steps": steps_of("ring", 5) * 2, "period": 2}, ["repeat after 2"]),
        ({"steps": steps_of("ring", 5) * 16, "period": 20}, ["first 8 of the 20 steps of a period"]),
        ({"steps": steps_of("ring", 5) * 9, "period": None}, ["first 8 steps, which do not repeat"]),
    ],
)
def test_the_caption_says_what_is_known(tmp_path: Path, changes: dict[str, Any], wanted: list[str]) -> None:
    text = caption(read_run(folder(tmp_path, steps_of("ring", 5), 5, changes=changes)))
    assert all(part in text for part in wanted)
    assert "None" not in text


def test_the_page_has_the_drawing_where_there_is_a_topology(tmp_path: Path) -> None:
    run = folder(tmp_path, steps_of("ring", 5), 5)
    text = write_report(run).read_text()
    assert "<h2>Topology</h2>" in text
    assert "&lt;graph&gt;: 5 nodes" in text
    assert text.count("<svg") == 1
    (run / "topology.json").unlink()
    text = write_report(run).read_text()
    assert "Topology" not in text
    assert "<svg" not in text


@pytest.mark.parametrize(
    "changes",
    [{"steps": [[[0, 5, 0.5]]]}, {"steps": [[[0, 1]]]}, {"steps": []}, {"ranks": [0]}, {"size": "five"}],
)
def test_a_damaged_file_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = folder(tmp_path, steps_of("ring", 5), 5, changes=changes)
    with pytest.raises(HpcFlError, match=r"topology\.json.*remove it"):
        write_report(run)
    (run / "topology.json").write_text('{"name": "ri')
    with pytest.raises(HpcFlError, match=r"topology\.json"):
        read_run(run)
