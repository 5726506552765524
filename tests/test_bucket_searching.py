"""A size for each bucket in the process that trains: a fake one, whose memory follows a formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autobatch.bucket_options import BucketOptions
from autobatch.bucket_records import BucketResult
from autobatch.bucket_searching import search_buckets_here
from autobatch.endings import Ending
from autobatch.errors import NothingFitsError
from autobatch.length_buckets import Lengths
from autobatch.options import ProbeOptions
from autobatch.protocol import Failed, Prepared, RunTrial, TrialDone
from autobatch.records import Device, Outcome, ProofKind, Trial
from autobatch.units import MIB

BUDGET, RESIDENT = 512 * MIB, 16 * MIB
ENDS = (99, 199, 400)


class Process:
    """This process.

    Args:
        needs: Bytes of a step at a size and a length.
        dies: Whether the proof dies in a step at a size and a length.
    """

    not_a_number = False

    def __init__(
        self,
        needs: Callable[[int, int], float],
        dies: Callable[[int, int], bool] = lambda size, length: False,
    ) -> None:
        self._needs, self._dies = needs, dies
        self.failed: Failed | None = None
        self.versions: dict[str, str] = {}
        self.tried: list[tuple[int, int]] = []
        self.proofs: list[tuple[tuple[int, int], ...]] = []
        self.prepared = Prepared(
            model="m",
            device_name="GPU",
            limit_bytes=BUDGET,
            resident_bytes=RESIDENT,
            lengths=Lengths(counts=((50, 100_000), (150, 100_000), (390, 100_000))),
            max_length=400,
        )
        self.device = Device(name="GPU", kind="gpu", limit_bytes=BUDGET, budget_bytes=BUDGET)

    def peak(self, size: int, length: int) -> int:
        return int(RESIDENT + self._needs(size, length))

    def measure(
        self,
        batch_size: int,
        *,
        steps: int,
        trace: bool,
        trace_steps: int,
        enough_bytes: int | None,
        sequence_length: int | None = None,
    ) -> Trial:
        assert sequence_length is not None
        assert not trace_steps
        self.tried.append((sequence_length, batch_size))
        request = RunTrial(batch_size=batch_size, steps=steps, sequence_length=sequence_length)
        peak = self.peak(batch_size, sequence_length)
        if peak > BUDGET:
            return Trial(
                batch_size=batch_size,
                sequence_length=sequence_length,
                outcome=Outcome.OUT_OF_MEMORY,
                why="!",
            )
        return done((peak,) * steps).as_trial(request)

    def prove_shapes(
        self, shapes: tuple[tuple[int, int], ...], *, limit_bytes: int | None
    ) -> Ending:
        assert limit_bytes is None  # far from the edge, as memory must not run out: no replays
        self.proofs.append(shapes)
        request = RunTrial.of_shapes(shapes, validation=True)
        for place, shape in enumerate(shapes):
            if self._dies(*shape):
                died = Trial(
                    batch_size=shape[0], outcome=Outcome.OUT_OF_MEMORY, why="!", proof=True
                )
                return Ending(died, None, reusable=True, step=place + 1)
        answer = done(tuple(self.peak(*shape) for shape in shapes))
        return Ending(answer.as_trial(request), answer, reusable=True)

    def prove(self, batch_size: int, **_: object) -> tuple[Trial, TrialDone | None]:
        raise AssertionError("buckets are proven together")


def done(peaks: tuple[int, ...]) -> TrialDone:
    return TrialDone(
        step_peak_bytes=peaks,
        step_seconds=(0.1,) * len(peaks),
        other_peak_bytes=0,
        resident_bytes=RESIDENT,
    )


def attention(size: int, length: int) -> float:
    return 4e6 + size * (1e5 + length * 9000 + length * length * 40)


def found(process: Process, **options: object) -> BucketResult:
    wanted = BucketOptions.checked(boundaries=[100, 200])
    return search_buckets_here(process, ProbeOptions.checked(**options), wanted)


def test_each_bucket_gets_a_size_that_was_tried_and_all_are_proven_in_this_process() -> None:
    process = Process(attention)
    result = found(process)
    assert result.proof.kind is ProofKind.THIS_PROCESS
    assert set(zip(ENDS, result.batch_sizes, strict=True)) <= set(process.tried)
    assert [set(each[:3]) for each in process.proofs] == [
        set(zip(result.batch_sizes, ENDS, strict=True))
    ]
    assert all(trial.outcome is Outcome.FITS for trial in result.trials)
    assert result.headroom_bytes == int(0.12 * (BUDGET - RESIDENT))
    assert found(Process(attention), headroom="3%").headroom_bytes == int(0.03 * BUDGET)
    target = BUDGET - result.headroom_bytes
    for size, length in zip(result.batch_sizes, ENDS, strict=True):
        assert 0.9 * target < process.peak(size, length) <= target


def test_a_size_whose_proof_dies_is_lowered_and_all_are_proven_anew() -> None:
    first = found(Process(attention)).batch_sizes
    process = Process(attention, dies=lambda size, length: length == 199 and size >= first[1])
    result = found(process)
    assert (result.batch_sizes[0], result.batch_sizes[2]) == (first[0], first[2])
    assert 0.9 * first[1] < result.batch_sizes[1] < first[1]
    assert len(process.proofs) == 2


def test_a_length_is_named_that_fits_where_the_longest_fits_but_too_closely() -> None:
    process = Process(lambda size, length: size * length * length * 3200)
    with pytest.raises(NothingFitsError, match=r"at sequence length 400.*--max-length 3\d\d"):
        found(process)
    assert all(process.peak(size, length) <= BUDGET for length, size in process.tried)


def test_where_memory_ran_out_it_is_not_tried_again_with_shorter_sequences() -> None:
    process = Process(lambda size, length: size * length * length * 4000)
    with pytest.raises(NothingFitsError, match="Shorter sequences need less: --max-length"):
        found(process)
    assert process.tried == [(400, 1)]
