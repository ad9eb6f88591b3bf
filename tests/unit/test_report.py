"""Laws of the report: it can be made from any run that finished a round, and shows what is in the folder."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_fl.errors import HpcFlError
from hpc_fl.report import write_report
from hpc_fl.report.canvas import bins, means, plotting
from hpc_fl.report.consensus import consensus
from hpc_fl.report.folder import read_run

pytest.importorskip("matplotlib")


def record(number: int, accuracy: bool = True, ranks: int = 3) -> dict[str, Any]:
    made: dict[str, Any] = {
        "round": number,
        "world_size": ranks,
        "left_out": [2] if number == 2 else [],
        "train_loss": 1 / number,
        "loss": 2 / number,
        "bytes_sent": {"allreduce": [1000] * ranks, "control": [10] * ranks},
        "seconds": {"train": 0.1, "communicate": 0.05},
        "round_seconds": 0.2,
        "elapsed": 0.2 * number,
    }
    if accuracy:
        made["accuracy"] = 1 - 1 / number
        made["party_accuracy"] = {"min": 0.1, "mean": 0.5, "max": 0.9, "std": 0.2}
    return made


def own_models(number: int) -> dict[str, Any]:
    """A record of a run in which every party has a model of its own."""
    spread = {"min": 0.1, "mean": 0.5, "max": 0.9, "std": 0.2}
    return record(number) | {
        "model_accuracy": spread,
        "model_loss": spread,
        "consensus_distance": 10.0**-number,
    }


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what the page says: drawing takes seconds."""
    monkeypatch.setattr("hpc_fl.report.html._PLOTS", ())
    monkeypatch.setattr("hpc_fl.report.figures.curves", lambda _: None)


def folder(path: Path, records: list[dict[str, Any]], events: list[dict[str, Any]] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    if events is not None:
        (path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in events))
    return path


STARTED = {
    "event": "RunStarted",
    "name": "<digits>",
    "rounds": 30,
    "parties": 4,
    "parameters": 650,
    "facts": {},
}


class Page(HTMLParser):
    """Counts what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_has_every_plot(tmp_path: Path) -> None:
    run = folder(tmp_path, [record(number) for number in range(1, 6)], [STARTED])
    assert write_report(run) == run / "report.html"
    text = (run / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == 4
    assert len(page.ids) == len(set(page.ids))
    # Nothing is fetched, and every reference inside a figure has its target.
    assert not re.search(r'(src|href)="(?!#)', text)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) <= {
        pair for name in page.ids for pair in ((name, ""), ("", name))
    }
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_plots")
def test_what_the_folder_says_is_shown_and_escaped(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [
        STARTED,
        {"event": "PartyLeftOut", "round": 2, "party_ids": [2, 7], "reason": "NaN in <update>"},
        {"event": "CheckpointWritten", "round": 3, "path": "c/round-3", "best": True, "seconds": 0.1},
        {"event": "Notice", "text": "rank 2 & 3 died"},
        {"event": "RunFinished", "reason": "stopped by SIGTERM", "rounds_done": 3},
    ]
    run = folder(tmp_path, [record(number) for number in range(1, 4)], events)
    (run / "config.yaml").write_text("name: <b>\n")
    facts = {"packages": {"torch": "2.13", "cupy": None}, "command": ["hpc-fl", "train", "seed=3 4"]}
    (run / "versions.json").write_text(json.dumps(facts))
    text = write_report(run).read_text()
    for wanted in (
        "&lt;digits&gt;",
        "2, 7",
        "NaN in &lt;update&gt;",
        "c/round-3",
        "rank 2 &amp; 3 died",
        "stopped by SIGTERM",
        "name: &lt;b&gt;",
        "<td>torch</td><td>2.13</td>",
        "<td>cupy</td><td>none</td>",
        "hpc-fl train &#x27;seed=3 4&#x27;",
        "3 of 30 rounds",
        "9.09 kB",
    ):
        assert wanted in text


@pytest.mark.parametrize(
    "records",
    [
        [record(1)],
        [record(1, accuracy=False)],
        [record(number, accuracy=False) for number in range(1, 4)],
        [record(number, accuracy=number % 2 == 0) for number in range(1, 7)],
        [record(1, ranks=5), record(2, ranks=4)],
        [record(1) | {"accuracy": None, "loss": None, "train_loss": None}],
        [record(1) | {"party_accuracy": {"min": None, "mean": None, "max": None, "std": None}}],
        [{"round": 1, "elapsed": 0.0}],
        [record(number) for number in range(1, 400)],
        [own_models(1)],
        [own_models(number) for number in range(1, 3)],
        [own_models(1) | {"consensus_distance": 0.0}],
        [own_models(1) | {"model_accuracy": None, "model_loss": None}, record(2)],
    ],
    ids=[
        "one",
        "one-regression",
        "regression",
        "sparse",
        "shrunk",
        "nan",
        "nan-parties",
        "bare",
        "long",
        "own",
        "own-models",
        "own-equal",
        "own-nan",
    ],
)
def test_any_run_can_be_reported(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    page = Page(write_report(folder(tmp_path, records)).read_text())
    assert page.open == []


@pytest.mark.usefixtures("no_plots")
def test_a_run_in_progress_is_called_so_and_its_half_line_is_left_out(tmp_path: Path) -> None:
    run = folder(tmp_path, [record(1), record(2)], [STARTED])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "acc')
    text = write_report(run).read_text()
    assert "in progress" in text
    assert "2 of 30 rounds" in text


def test_a_resumed_run_is_in_progress_until_its_last_session_ends(tmp_path: Path) -> None:
    ended = {"event": "RunFinished", "reason": "stopped by SIGTERM", "rounds_done": 1}
    assert read_run(folder(tmp_path, [record(1)], [STARTED, ended])).state == "stopped by SIGTERM"
    assert (
        read_run(folder(tmp_path, [record(1)], [STARTED, ended, STARTED])).state == "in progress, or killed"
    )


@pytest.mark.usefixtures("no_plots")
def test_damaged_versions_are_shown_as_found(tmp_path: Path) -> None:
    run = folder(tmp_path, [record(1)])
    (run / "versions.json").write_text('{"torch": "2.1')
    assert "{&quot;torch&quot;: &quot;2.1" in write_report(run).read_text()


def test_without_a_finished_round_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HpcFlError, match="folder of a run"):
        write_report(tmp_path)
    with pytest.raises(HpcFlError, match="after the first round"):
        write_report(folder(tmp_path, []))
    with pytest.raises(HpcFlError, match="elapsed"):
        write_report(folder(tmp_path, [{"round": 1}]))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("count", [1, 2, 119, 120, 121, 240, 100_001])
def test_bins_cover_every_round_once_and_keep_the_mean(count: int) -> None:
    ranges = bins(count)
    assert [place for begin, end in ranges for place in range(begin, end)] == list(range(count))
    assert len(ranges) <= 120
    values = [float(place) for place in range(count)]
    total = sum(
        mean * (end - begin) for mean, (begin, end) in zip(means(values, ranges), ranges, strict=True)
    )
    assert total == pytest.approx(sum(values))


@pytest.mark.usefixtures("no_plots")
def test_the_last_distance_is_among_the_first_numbers(tmp_path: Path) -> None:
    text = write_report(folder(tmp_path, [own_models(1), own_models(2), record(3)])).read_text()
    assert "consensus distance</dt><dd>0.01<small>round 2" in text
    assert "consensus distance" not in write_report(folder(tmp_path, [record(1)])).read_text()


def test_the_distance_is_drawn_on_a_log_scale_beside_the_spread_of_own_models(tmp_path: Path) -> None:
    run = read_run(folder(tmp_path, [own_models(number) for number in range(1, 6)]))
    regression = read_run(
        folder(tmp_path, [own_models(number) | {"model_accuracy": None} for number in range(1, 6)])
    )
    with plotting():
        for found, label in ((run, "accuracy"), (regression, "loss")):
            figure = consensus(found)
            assert figure is not None
            distance, models = figure.axes
            assert distance.get_yscale() == "log"
            line = np.asarray(distance.lines[0].get_xydata())
            assert line.tolist() == [[n, 10.0**-n] for n in range(1, 6)]
            assert label in models.get_ylabel()
            assert "consensus model" in models.get_legend_handles_labels()[1]
        assert consensus(read_run(folder(tmp_path, [record(1)]))) is None
