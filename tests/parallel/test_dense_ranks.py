"""The laws of dense allreduces on the ranks at hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
from laws import auto_laws, dense_laws

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("case", dense_laws.CASES.values(), ids=dense_laws.CASES)
@pytest.mark.parametrize("law", dense_laws.LAWS)
def test_law(
    law: Callable[[Transport, dense_laws.Case], None], case: dense_laws.Case, transport: Transport
) -> None:
    law(transport, case)


@pytest.mark.parametrize("law", auto_laws.LAWS)
def test_law_of_the_choice(
    law: Callable[[Transport], None],
    transport: Transport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    law(transport)
