"""Peak bytes as a function of batch size and sequence length, shared by all buckets. Pure.

Above the bytes in use between steps, a step needs a sum of

    a fixed part  +  batch size x (a part of a sample  +  one of a token  +  one of a pair of them)

Recurrent and convolutional layers are linear in the length, attention is quadratic, and a
classifier's head does not ask for it. No part is negative. Which of them there are, the trials
tell: of two explanations that serve equally well, the simpler one counts, and first of all the
one by tokens. So a single length foretells the others, and two or three foretell them well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from autobatch import memory_model
from autobatch.records import Trial

_WORTH = 0.005  # of the largest measurement: what another part must explain to be there
_TOKENS, _FIXED, _SAMPLES, _PAIRS = range(4)  # the order in which parts are preferred


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Peak bytes over batch size and length.

    Attributes:
        resident_bytes: In use between steps.
        fixed: Bytes that a step needs whatever its batch.
        per_sample, per_token, per_pair: Bytes of each sample, of each token in it, and of each
            pair of tokens in it.
        lengths: How many of them were measured.
    """

    resident_bytes: int
    fixed: float
    per_sample: float
    per_token: float
    per_pair: float
    lengths: int

    def of_a_sample(self, length: int) -> float:
        """Bytes that a sample of this length adds."""
        return self.per_sample + length * (self.per_token + length * self.per_pair)

    def predict(self, batch_size: float, length: int) -> float:
        """Bytes at the peak that are to be expected."""
        return self.resident_bytes + self.fixed + batch_size * self.of_a_sample(length)

    def largest_within(self, limit_bytes: float, length: int) -> float:
        """The batch size whose expected peak meets the limit; 0 where even one sample is more."""
        room = limit_bytes - self.resident_bytes - self.fixed
        return max(0.0, room / max(1.0, self.of_a_sample(length)))

    def longest_within(self, limit_bytes: float, batch_size: int, longest: int) -> int:
        """The greatest length, up to `longest`, at which a batch meets the limit; 0 for none."""
        low, high = 0, longest + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.predict(batch_size, middle) <= limit_bytes
            low, high = (middle, high) if fits else (low, middle)
        return low


def largest_between(shorter: tuple[int, int], longer: tuple[int, int], length: int) -> float:
    """The batch size that needs no more at a length than two batches did at lengths about it.

    Samples and tokens of such a batch are a weighted mean of theirs, and bytes over samples and
    tokens are convex for every part that there is: so they are at most the weighted mean of both.

    Args:
        shorter, longer: Length and batch size of the two.
        length: Between theirs.
    """
    share = (length - shorter[0]) / (longer[0] - shorter[0])
    return 1 / ((1 - share) / shorter[1] + share / longer[1])


def fit(trials: Iterable[Trial]) -> LengthModel | None:
    """The model of these trials, told apart by their `sequence_length`; None without any."""
    groups: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.sequence_length is not None:
            groups.setdefault(trial.sequence_length, []).append(trial)
    models = {length: memory_model.fit(group) for length, group in groups.items()}
    known = {length: model for length, model in models.items() if model is not None}
    if not known:
        return None
    resident = min(model.resident_bytes for model in known.values())
    measured = [
        (float(point.batch_size), float(length), float(point.peak_bytes - resident))
        for length, model in known.items()
        for point in model.points
    ]
    parts = _parts(measured)
    return LengthModel(
        resident, parts[_FIXED], parts[_SAMPLES], parts[_TOKENS], parts[_PAIRS], len(known)
    )


def _parts(measured: Sequence[tuple[float, float, float]]) -> list[float]:
    """Bytes by kind of part, the squares of what is left unexplained being least."""
    most = max(1.0, *(needed for _, _, needed in measured))
    # In shares of the largest, or the squares would differ by too many digits.
    rows = [[b * n, 1.0, b, b * n * n] for b, n, _ in measured]
    scales = [max(1e-12, *(row[part] for row in rows)) for part in range(4)]
    rows = [[row[part] / scales[part] for part in range(4)] for row in rows]
    wanted = [needed / most for _, _, needed in measured]
    best, best_score = [0.0] * 4, float("inf")
    for number in range(1, 5):
        for chosen in combinations(range(4), number):
            solved = _least_squares([[row[part] for part in chosen] for row in rows], wanted)
            if solved is None or min(solved) < 0 or chosen == (_FIXED,):
                continue
            parts = [0.0] * 4
            for part, value in zip(chosen, solved, strict=True):
                parts[part] = value
            left = [w - sum(map(_product, row, parts)) for row, w in zip(rows, wanted, strict=True)]
            error = (sum(each * each for each in left) / len(left)) ** 0.5
            score = error + _WORTH * number
            if score < best_score - 1e-9:
                best, best_score = parts, score
    return [value * most / scale for value, scale in zip(best, scales, strict=True)]


def _product(left: float, right: float) -> float:
    return left * right


def _least_squares(rows: list[list[float]], wanted: list[float]) -> list[float] | None:
    """What solves the normal equations; None where they do not determine it."""
    count = len(rows[0])
    table = [
        [sum(row[i] * row[j] for row in rows) for j in range(count)]
        + [sum(row[i] * w for row, w in zip(rows, wanted, strict=True))]
        for i in range(count)
    ]
    for column in range(count):
        pivot = max(range(column, count), key=lambda row: abs(table[row][column]))
        if abs(table[pivot][column]) < 1e-10:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        for row in range(count):
            if row != column:
                times = table[row][column] / table[column][column]
                table[row] = [a - times * b for a, b in zip(table[row], table[column], strict=True)]
    return [table[i][count] / table[i][i] for i in range(count)]
