"""Which of the sizes that fit trains the most samples a second. Pure.

The largest size is not always the fastest: near its limit a device may have no room for the
workspaces of fast algorithms, an allocator may have to free and to map anew at every step, and
some drivers move what no longer fits into the host's memory. Trials tell how fast a size is, in
passing; only proofs, which take more steps in a process of their own, decide.
"""

from __future__ import annotations

from collections.abc import Collection

from autobatch.evidence import Evidence

PROOFS = 2  # of smaller sizes, at most: each costs a process of its own
WORTH_A_PROOF = 0.03  # share by which a size must seem faster than the fastest that is proven


def proven_rates(search: Evidence, proven: Collection[int]) -> dict[int, float]:
    """Samples a second of the sizes proven, by the last proof of each."""
    return {
        trial.batch_size: trial.samples_per_second
        for trial in search.trials
        if trial.proof and trial.batch_size in proven and trial.samples_per_second
    }


def next_proof(search: Evidence, largest: int, proven: Collection[int]) -> int | None:
    """A size below the largest that seems faster than all that are proven; None for none.

    Args:
        search: All that was tried.
        largest: The largest safe size, which is proven.
        proven: All sizes that this search itself has proven.
    """
    rates = proven_rates(search, proven)
    if largest not in rates or sum(size < largest for size in proven) >= PROOFS:
        return None
    seen = {
        trial.batch_size: trial.samples_per_second
        for trial in search.trials
        if not trial.proof
        and trial.samples_per_second
        and trial.batch_size < largest
        and trial.batch_size not in proven
        and search.is_fit(trial)
    }
    best = max(seen, key=lambda size: seen[size], default=None)
    if best is None or seen[best] <= (1 + WORTH_A_PROOF) * max(rates.values()):
        return None
    return best


def fastest(search: Evidence, largest: int, proven: Collection[int]) -> int:
    """The size up to the largest with the best proven samples a second."""
    every = proven_rates(search, proven)
    rates = {size: rate for size, rate in every.items() if size <= largest}
    return max(rates, key=lambda size: (rates[size], size), default=largest)
