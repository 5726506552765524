"""What a probe of buckets says: frozen records with versioned JSON both ways."""

from __future__ import annotations

from typing import Any

import msgspec

from autobatch import records
from autobatch.records import SCHEMA_VERSION, Device, LearningRate, LimitedBy, Proof, Trial


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences of some lengths, and the batch size for them.

    Attributes:
        shortest, longest: Their lengths.
        batch_size: The largest safe one at the longest, of one replica.
        samples: How many of the data set are in it; None where that is not known.
        learning_rate_factor: For who would scale the rate with each batch: what to multiply the
            result's `learning_rate` by for a batch of this bucket.
        limited_by: What keeps the size from being larger.
        peak_bytes: The largest peak measured at this size and the longest sequence.
        needed_bytes: What such steps need by their replays; None where only the proof ran them.
        step_seconds: Of such a step, in the proof; None where it was not timed.
    """

    shortest: int
    longest: int
    batch_size: int
    samples: int | None = None
    learning_rate_factor: float | None = None
    limited_by: LimitedBy
    peak_bytes: int | None = None
    needed_bytes: int | None = None
    step_seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens in a whole batch of the longest sequences."""
        return self.batch_size * self.longest


class Padding(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass over the data costs, with one size and with the buckets'.

    Batches of one size hold samples in random order, each padded to the longest in it; so are
    those of a bucket. A step is taken to last as long as it was measured at its longest sequence,
    less in proportion to the length that batches have on average.

    Attributes:
        static_batch_size: The one size: that of the longest sequences; where the data has fewer of
            them than would fit, what the memory model expects, which was not proven.
        static_padded: Share of the tokens in its batches that are padding.
        padded: The same of the buckets'.
        static_tokens_per_second, tokens_per_second: Tokens of the data, without padding; None
            where no such step was timed.
    """

    static_batch_size: int
    static_padded: float
    padded: float
    static_tokens_per_second: float | None = None
    tokens_per_second: float | None = None


class BucketResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a probe of buckets: a size for each, run and passed together.

    Attributes:
        boundaries: The first length of each bucket but the first, as
            `tf.data.Dataset.bucket_by_sequence_length` takes them.
        max_length: The greatest length that the last bucket was proven for.
        on_too_long: What is to become of longer samples: `error`, `truncate` or `drop`.
        sequence_axes: The axis of the sequence in each array of a sample, as `tf.nest.flatten` puts
            them, the batch not counted; None in one that has no sequence.
        buckets: One more than there are boundaries, short to long.
        tokens_per_batch: The tokens that every bucket's size follows from, where that was asked.
        mean_batch_size: Samples in a step of the optimizer on average, of all replicas, each
            bucket weighted by how often it occurs; all alike where that is not known.
        steps_per_epoch: Optimizer steps one pass over the data takes; None if unknown.
        learning_rate: The rate scaled to `mean_batch_size`; of a schedule, its scaled start.
        learning_rate_rule, learning_rate_schedule, learning_rates: As in a `ProbeResult`.
        base_batch_size, base_learning_rate: What the rate was scaled from.
        padding: What is gained; None where the data's lengths are not known.
        device: Where the trials ran, and what they could use.
        headroom_bytes: Bytes of the budget asked to be kept free of the peak.
        proof: The run that the answer rests on: in one process, through all buckets.
        trials: Everything tried, in order, proofs included.
        warnings: Sentences the user should read.
        seconds: Wall time of the probe.
        versions: Of Python, TensorFlow, Keras and autobatch.
    """

    schema_version: int = SCHEMA_VERSION
    kind: str = "buckets"
    boundaries: tuple[int, ...]
    max_length: int
    on_too_long: str
    sequence_axes: tuple[int | None, ...] = ()
    buckets: tuple[Bucket, ...]
    tokens_per_batch: int | None = None
    mean_batch_size: float
    steps_per_epoch: int | None = None
    learning_rate: float | None = None
    learning_rate_rule: str | None = None
    learning_rate_schedule: dict[str, Any] | None = None
    learning_rates: tuple[LearningRate, ...] = ()
    base_batch_size: int | None = None
    base_learning_rate: float | None = None
    padding: Padding | None = None
    device: Device
    headroom_bytes: int
    proof: Proof
    trials: tuple[Trial, ...]
    warnings: tuple[str, ...] = ()
    seconds: float
    versions: dict[str, str]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """What `fit` takes, of all replicas together: one more than there are boundaries."""
        return tuple(each.batch_size * self.device.replicas for each in self.buckets)

    def to_json(self, *, indent: int | None = None) -> str:
        """The whole result as one JSON object."""
        return records.to_json(self, indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> BucketResult:
        """The result that `to_json` wrote.

        Raises:
            AutobatchError: The text is no such result, or of another schema version.
        """
        return records.decoded(text, cls, "a result of buckets")
