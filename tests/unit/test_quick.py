"""The library's own look at array objects: it takes nothing that the long way would refuse."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from hpc_fl.backends import objects
from hpc_fl.backends.checks import Checked
from hpc_fl.backends.library import find_library
from hpc_fl.backends.native import Native
from hpc_fl.backends.quick import Quick
from hpc_fl.errors import HpcFlError, NotFiniteError

LONG: Final = Checked(Native(), np.ndarray)
N: Final = 24
Arguments = dict[str, Any]


def floats(n: int) -> Any:
    return np.linspace(-2, 3, n, dtype=np.float32)


def update(**others: Any) -> Arguments:
    return {"g": floats(N), "e": floats(N)[::-1].copy(), "c": np.zeros(N, np.float32), **others}


def calls() -> dict[str, Arguments]:
    """Arguments of each quick kernel, all as usual."""
    bounds, scales = np.array([0, 5, N]), np.ones(2, np.float32)
    ints, few = np.arange(3, dtype=np.int32), np.ones(3, np.float32)
    codes, blocks = np.ones(5 * N // 8, np.uint8), np.ones(N // 8, np.float32)
    bits, out = np.ones(N // 8, np.uint8), floats(N)
    return {
        "add_topk": update(indices=ints, values=few, hint=0.5),
        "add_threshold": update(tau=0.5, indices=np.zeros(N, np.int32), values=floats(N)),
        "add_sign": update(e_scales=scales.copy(), bounds=bounds, bits=bits, scales=scales),
        "sign_residual": {"c": floats(N), "bounds": bounds, "scales": scales, "out": out},
        "add_signs": {"bits": bits, "bounds": bounds, "scales": scales, "weight": 0.5, "out": out},
        "scatter_add": {"indices": ints, "values": few, "weight": 0.5, "out": out},
        "add_quantize": update(width=5, block=8, key=7, codes=codes, scales=blocks),
        "add_dequantized": {
            "codes": codes, "scales": blocks, "width": 5, "block": 8, "weight": 1.5, "out": out,
        },
    }  # fmt: skip


class Mine(np.ndarray[Any, Any]):
    pass


def unaligned(x: Any) -> Any:
    return np.frombuffer(bytearray(1) + bytearray(x.tobytes()), x.dtype, x.size, 1)


def read_only(x: Any) -> Any:
    return np.frombuffer(x.tobytes(), x.dtype)


SPOILT: Final[dict[str, Callable[[Any], object]]] = {
    "another dtype": lambda x: x.astype(np.float16),
    "another dtype of the size": lambda x: x.view({4: np.uint32, 8: np.float64, 1: np.int8}[x.itemsize]),
    "the other byte order": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "a dtype with metadata": lambda x: x.view(np.dtype(x.dtype.str, metadata={"mine": 1})),
    "two dimensions": lambda x: x.reshape(1, -1),
    "no dimension": lambda x: x[0],
    "an array of no dimension": lambda x: x[:1].reshape(()),
    "gaps between": lambda x: np.repeat(x, 2)[::2],
    "backwards": lambda x: x[::-1],
    "one more": lambda x: np.append(x, x[:1]),
    "one less": lambda x: x[:-1].copy(),
    "empty": lambda x: x[:0],
    "None": lambda _: None,
    "a list": lambda x: x.tolist(),
    "a class": lambda _: np.ndarray,
    "a subclass": lambda x: x.copy().view(Mine),
    "read-only": read_only,
    "unaligned": unaligned,
}
SPOILT_NUMBERS: Final = {
    "hint": (-1.0, np.nan, np.inf, 1e300),
    "tau": (-1.0, np.nan, np.inf, 1e300),
    "weight": (np.nan, np.inf, 1e300, -3.5e38),
    "width": (0, 1, 9, 2**40, -4, 4.0),
    "block": (0, 4, 12, -8, 2**31 - 8, 2**31, 2**62, 2**63 - 8, 2**70),
    "key": (-1, 2**64, 2**64 - 1),
}


def spoilt(kernel: str) -> Iterator[tuple[str, Callable[[Arguments], object]]]:
    for name, value in calls()[kernel].items():
        if isinstance(value, np.ndarray):
            yield from ((f"{name}: {how}", _replacing(name, spoil)) for how, spoil in SPOILT.items())
        else:
            for number in SPOILT_NUMBERS[name]:
                yield f"{name}: {number}", _setting(name, number)


def _replacing(name: str, spoil: Callable[[Any], object]) -> Callable[[Arguments], object]:
    return lambda arguments: arguments.update({name: spoil(arguments[name])})


def _setting(name: str, value: object) -> Callable[[Arguments], object]:
    return lambda arguments: arguments.update({name: value})


def outcome(backend: Any, kernel: str, arguments: Arguments) -> tuple[object, ...]:
    """What it returns or raises, and what its arrays hold then."""
    try:
        with np.errstate(all="ignore"):
            result = getattr(backend, kernel)(**arguments)
    except (HpcFlError, ArithmeticError) as error:
        result = (type(error), str(error))
    except Exception as error:
        result = type(error)  # a wrong type of number: its text is Python's
    held = [value.tobytes() for value in arguments.values() if isinstance(value, np.ndarray)]
    return (str(result), *held)


@pytest.mark.parametrize("kernel", calls())
def test_what_is_spoilt_ends_as_on_the_long_way(kernel: str) -> None:
    for case, spoil in spoilt(kernel):
        ours, other = calls()[kernel], calls()[kernel]
        spoil(ours), spoil(other)
        assert outcome(Quick(Native()), kernel, ours) == outcome(LONG, kernel, other), case


@pytest.mark.parametrize("kernel", calls())
def test_outputs_that_may_not_be_written_are_refused(kernel: str) -> None:
    arguments = calls()[kernel]
    written = [
        name
        for name, value in arguments.items()
        if isinstance(value, np.ndarray) and _is_written(kernel, name)
    ]
    assert written
    for name in written:
        given = arguments | {name: read_only(arguments[name])}
        before = given[name].tobytes()
        result, *_ = outcome(Quick(Native()), kernel, given)
        assert "read-only array given" in str(result)
        assert given[name].tobytes() == before


def _is_written(kernel: str, name: str) -> bool:
    fresh = calls()[kernel]
    before = fresh[name].tobytes()
    getattr(LONG, kernel)(**fresh)
    return bool(fresh[name].tobytes() != before)


class Nowhere:
    """The long way, closed."""

    name = "nowhere"

    def __getattr__(self, kernel: str) -> Any:
        raise AssertionError(f"{kernel} went the long way")


def closed(threads: int | None = None) -> Quick:
    quick = Quick(Native(threads=threads))
    quick._backend = Nowhere()
    return quick


@pytest.mark.parametrize("kernel", calls())
def test_what_is_usual_goes_the_short_way(kernel: str) -> None:
    ours, other = calls()[kernel], calls()[kernel]
    assert outcome(closed(), kernel, ours) == outcome(LONG, kernel, other)
    for arguments in (ours, other):
        for name in ("e", "e_scales", "c"):
            if name in arguments and kernel != "sign_residual":
                arguments[name] = None
    assert outcome(closed(), kernel, ours) == outcome(LONG, kernel, other)


@pytest.mark.parametrize("kernel", calls())
def test_a_subclass_goes_the_long_way(kernel: str) -> None:
    for name, value in calls()[kernel].items():
        if isinstance(value, np.ndarray):
            arguments = calls()[kernel] | {name: value.view(Mine)}
            with pytest.raises(AssertionError, match="the long way"):
                getattr(closed(), kernel)(**arguments)


def test_many_elements_are_shared_by_threads() -> None:
    n, cut = 270_001, 100_003
    random = np.random.default_rng(0)
    g, e = random.standard_normal((2, n), dtype=np.float32)
    bounds = np.array([0, cut, n])
    found = []
    for backend in (Checked(Native(threads=1), np.ndarray), closed(1), closed(4)):
        indices, values, c = np.empty(500, np.int32), np.empty(500, np.float32), np.empty_like(g)
        bits, scales, out = np.empty(-(-n // 8), np.uint8), np.ones(2, np.float32), np.zeros_like(g)
        smallest = backend.add_topk(g, e, c, indices, values)
        backend.add_sign(g, c, scales.copy(), out, bounds, bits, scales)
        backend.add_signs(bits, bounds, scales, 0.5, out)
        found.append([str(smallest), *(x.tobytes() for x in (indices, values, c, bits, scales, out))])
    assert found[0] == found[1] == found[2]


def test_only_the_update_is_spoilt() -> None:
    """A second try would find g + e + e where c is the memory of g, or a 0 where the infinity was taken."""
    for kernel in ("add_topk", "add_threshold", "add_sign", "add_quantize"):
        arguments = calls()[kernel]
        arguments["g"][3] = np.inf
        arguments["c"] = arguments["g"]
        kept = arguments["e"].copy()
        with pytest.raises(NotFiniteError):
            getattr(closed(), kernel)(**arguments)
        assert np.array_equal(arguments["e"], kept)


def test_where_arrays_lie_otherwise_all_goes_the_long_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert objects.lie_as_known()
    monkeypatch.setattr("hpc_fl.backends.library.lie_as_known", lambda: False)
    path = find_library()
    assert path is not None
    # A copy, as a library that is loaded twice has been told already how they lie.
    quick = Quick(Native(library=Path(shutil.copy(path, tmp_path))))
    for kernel in calls():
        ours, other = calls()[kernel], calls()[kernel]
        assert outcome(quick, kernel, ours) == outcome(LONG, kernel, other)
    quick._backend = Nowhere()
    for kernel in calls():
        with pytest.raises(AssertionError, match="the long way"):
            getattr(quick, kernel)(**calls()[kernel])
