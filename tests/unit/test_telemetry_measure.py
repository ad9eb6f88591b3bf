"""Laws of what is measured: the byte ledger, the phase timer, the trace, and their sums."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl.errors import HpcFlError
from hpc_fl.telemetry import PHASES, Ledger, Spans, Totals, Trace

Entries = list[tuple[str, int]]


@given(
    st.lists(st.lists(st.tuples(st.sampled_from(["allreduce", "gossip", "control"]), st.integers(0, 2**40))))
)
def test_what_is_taken_is_what_was_added(batches: list[Entries]) -> None:
    ledger, taken = Ledger(), 0
    for batch in batches:
        for kind, nbytes in batch:
            ledger.add(kind, nbytes)
        recent = ledger.take()
        assert recent == {kind: sum(n for k, n in batch if k == kind) for kind, _ in batch}
        taken += sum(recent.values())
    assert ledger.total == taken
    assert ledger.take() == {}


def test_ledger_refuses_negative_bytes() -> None:
    with pytest.raises(ValueError, match="negative"):
        Ledger().add("gossip", -1)


def test_every_phase_is_taken_in_a_fixed_order() -> None:
    spans = Spans()
    with spans("decode"), spans("own phase"):
        pass
    assert tuple(spans.take()) == (*PHASES, "own phase")
    assert set(spans.take().values()) == {0.0}


def test_nested_spans_subtract_nothing_and_a_name_within_itself_counts_once() -> None:
    spans = Spans()
    began = time.perf_counter()
    with spans("train"), spans("encode"), spans("train"):
        time.sleep(0.002)
    whole = time.perf_counter() - began
    taken = spans.take()
    assert 0.002 <= taken["encode"] <= taken["train"] <= whole


def test_a_span_open_while_taking_is_counted_when_it_ends() -> None:
    spans = Spans()
    with spans("train"):
        time.sleep(0.001)
        assert spans.take()["train"] == 0.0
    assert spans.take()["train"] >= 0.001


def test_a_span_that_raises_is_counted() -> None:
    spans = Spans()
    with pytest.raises(KeyError), spans("train"):
        raise KeyError
    assert spans.take()["train"] > 0
    with spans("train"):
        pass
    assert spans.take()["train"] > 0


def test_traces_of_ranks_merge_onto_one_axis(tmp_path: Path) -> None:
    paths = []
    for rank in range(3):
        trace = Trace(rank)
        spans = Spans(trace)
        with spans("train"), spans("encode"):
            pass
        assert len(trace) == 2
        paths.append(tmp_path / "trace" / f"rank{rank}.json")
        trace.write(paths[-1])
    Trace.merge(paths, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert {(event["pid"], event["name"]) for event in complete} == {
        (rank, name) for rank in range(3) for name in ("train", "encode")
    }
    assert min(event["ts"] for event in complete) == 0
    # Ranks ran one after another, so their spans must come in that order.
    starts = [min(event["ts"] for event in complete if event["pid"] == rank) for rank in range(3)]
    assert starts == sorted(starts)
    assert all(event["dur"] >= 0 for event in complete)


def test_merging_what_is_no_trace_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "rank0.json").write_text("[]")
    for name in ("rank0.json", "missing.json"):
        with pytest.raises(HpcFlError, match=name):
            Trace.merge([tmp_path / name], tmp_path / "out.json")


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 10**9), min_size=1, max_size=4)),
        max_size=5,
    )
)
def test_totals_conserve_bytes_when_the_world_changes(rounds: list[dict[str, list[int]]]) -> None:
    totals = Totals()
    for number, sent in enumerate(rounds, start=1):
        totals.add({"round": number, "bytes_sent": sent})
    expected = sum(sum(values) for sent in rounds for values in sent.values())
    assert totals.bytes_total == sum(totals.bytes_by_rank) == expected
    assert totals.rounds == len(rounds)


def test_totals_keep_the_last_and_the_best_and_skip_nan() -> None:
    totals = Totals()
    for number, accuracy in enumerate([0.5, 0.9, 0.7, float("nan"), None], start=1):
        models = {"model_accuracy": {"mean": accuracy}, "consensus_distance": accuracy}
        totals.add({"round": number, "accuracy": accuracy, "loss": None, "left_out": [4], **models})
    assert totals.accuracy == totals.model_accuracy == totals.consensus_distance == (3, 0.7)
    assert totals.best_accuracy == (2, 0.9)
    assert totals.loss is None
    assert totals.left_out == 5
