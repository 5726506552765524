"""Whether an answer that fits is also slow."""

from __future__ import annotations

import pytest

from autobatch.batch_search import Search
from autobatch.evidence import Plan
from autobatch.records import Outcome, Trial
from autobatch.sizes import SizeSpace
from autobatch.verdict import slowdown


def trial(size: int, seconds: float, *, proof: bool = False) -> Trial:
    return Trial(
        batch_size=size, outcome=Outcome.FITS, step_seconds=(9.0, seconds, seconds), proof=proof
    )


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([trial(64, 0.1), trial(128, 0.2), trial(128, 0.2, proof=True)], ""),
        ([trial(64, 0.1), trial(128, 2.0), trial(128, 2.0, proof=True)], "10.0 times"),
        ([trial(64, 0.1), trial(128, 0.2), trial(128, 2.0, proof=True)], "10.0 times"),
        ([trial(8, 0.001), trial(128, 2.0, proof=True)], ""),  # too far to compare
        ([trial(64, 0.1), trial(128, 0.5, proof=True)], ""),  # a busy machine's doing
        ([trial(128, 0.5, proof=True)], ""),
    ],
)
def test_a_sample_that_takes_much_longer_is_told(trials: list[Trial], said: str) -> None:
    found = slowdown(Search(Plan(SizeSpace()), tuple(trials)), 128, "cpu")
    assert bool(found) == bool(said)
    assert said in "".join(found)
    assert not found or "--max 64" in found[0]


def test_a_gpu_has_its_kernels_to_itself() -> None:
    tried = Search(Plan(SizeSpace()), (trial(64, 0.1), trial(128, 0.32, proof=True)))
    assert slowdown(tried, 128, "cpu") == ()
    assert "1.6 times" in slowdown(tried, 128, "gpu")[0]
