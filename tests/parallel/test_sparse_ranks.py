"""The laws of sparse reductions on the ranks at hand: those that messages matter for, of each scheme one."""

from collections.abc import Callable

import pytest
from laws import sparse_bytes_laws, sparse_laws
from laws.sparse_laws import CODECS, EXACT, MAKERS, Make

from hpc_fl.comm.transport import Transport

CASES = [CODECS[name] for name in ("fewer than ranks", "many", "threshold")]
SCHEMES = ["gather", "doubling", "split", "regions"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_lost(scheme: str, transport: Transport) -> None:
    sparse_laws.law_nothing_is_lost(transport, MAKERS[scheme], CASES)


@pytest.mark.parametrize("scheme", SCHEMES[:3])
def test_exact_law(scheme: str, transport: Transport) -> None:
    make = EXACT[scheme]
    sparse_laws.law_the_exact_schemes_give_the_mean_of_the_payloads(transport, make, CASES)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "law",
    [
        sparse_laws.law_a_rank_that_is_not_finite_is_left_out,
        sparse_bytes_laws.law_what_is_counted_is_what_is_sent,
    ],
)
def test_law(law: Callable[[Transport, Make], None], scheme: str, transport: Transport) -> None:
    law(transport, MAKERS[scheme])


@pytest.mark.parametrize("scheme", ["gather-global", "regions-global"])
def test_global_law(scheme: str, transport: Transport) -> None:
    sparse_laws.law_the_k_largest_of_the_sum(transport, MAKERS[scheme])


def test_regions_keep_about_k(transport: Transport) -> None:
    sparse_bytes_laws.law_regions_keep_about_k(transport)
