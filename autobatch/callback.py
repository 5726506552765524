"""`AutoBatch`, the Keras callback: the batch size for this live model, before its first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras
import msgspec

from autobatch import live_search
from autobatch.bucket_options import BucketOptions
from autobatch.bucket_records import BucketResult
from autobatch.engine import (
    accumulation,
    fit_call,
    guard,
    late_batches,
    late_sources,
    micro_batches,
    rates,
    tensorboard,
)
from autobatch.engine.fit_call import FitCall
from autobatch.engine.late_batches import LateBatches, LateBuckets, LateSize
from autobatch.errors import UsageError
from autobatch.events import Notice, Observer, ignore
from autobatch.options import ProbeOptions
from autobatch.records import ProbeResult

# What a search is told by the model and the data that are there.
_NOT_HERE = (
    "device",
    "input_shapes",
    "sequence_length",
    "run_as",
    "fit_call",
    "backend",
    "safe_mode",
    "optimizer",
    "loss",
)


class AutoBatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Finds the largest safe batch size when `fit` begins, and has this very `fit` train with it.

    It scales the optimizer's learning rate to it, and leaves everything else as if it had never
    looked: weights, optimizer slots, metrics, random numbers and the data are bit for bit what
    they were.

    Trials run in a worker process where the device lets one in, on a copy of the model and on a
    few rows of the data, which come again and again; `result.proof.kind` is then
    `fresh_process`. They run in this process where TensorFlow already holds the GPU's memory,
    from below and with more of it kept free; `result.proof.kind` is then `this_process`. Data
    that this process keeps in the host's memory is no part of what is measured.

    Args:
        base_batch_size: What the learning rate was chosen for. Defaults to the data's own batch
            size where it came in batches, else 32.
        base_learning_rate: The rate at that size. Defaults to the optimizer's. Give it where a
            model was loaded whose rate may have been scaled before.
        isolation: Where trials run: `"worker"`, `"process"` (this one), or `"auto"`. Defaults to
            `"auto"`.
        observer: Told each event (`autobatch.events`) of the search as it happens. Defaults to
            nobody.
        bucket_boundaries: The first length of each bucket but the first: `batch` then puts samples
            into buckets by length, and a size is found for each; one replica alone. `"auto"`
            chooses those that leave the least padding. Defaults to one size for all.
        buckets: With `bucket_boundaries="auto"`, how many buckets there are to be at most.
            Defaults to 5.
        max_length: With buckets, the greatest length. Defaults to the data's longest, where it can
            be read without changing what it gives next.
        on_too_long: With buckets, what becomes of longer samples: `"error"`, `"truncate"` or
            `"drop"`. Defaults to `"error"`.
        tokens_per_batch: With buckets, take the sizes that follow from the largest number of
            tokens a batch. Defaults to a size of its own for each.
        target_batch_size: The batch size of a step of the optimizer, where that may be more than
            fits: the largest micro-batch is sought that divides it, and the optimizer adds the
            gradients of several up. Defaults to steps of one batch.
        recover: Where memory runs out all the same, in the middle of training, because somebody
            else took it: go back to the last completed step, halve the batch, and go on in
            micro-batches whose gradients make one step of the optimizer on the whole batch. The
            step is done again, so nothing is lost or seen twice; a warning says so, here and in
            `result.warnings`. Each step then keeps what it began with until it has ended, which
            costs the memory of the weights and slots that it changes, as measured in the trials,
            and one more copy of its batch on the host. Defaults to False: training ends with a
            `DeviceChangedError`.
        **options: Other fields of `autobatch.ProbeOptions`, such as `memory_limit`, `maximum`,
            `multiple_of`, `headroom` or `learning_rate_rule`.

    Attributes:
        result: The `ProbeResult` of the last search, with buckets its `BucketResult`; None before.
        micro_batch_size: With `recover`: what batches are cut into since memory ran out; None
            while they are whole.

    Raises:
        UsageError: An argument makes no sense.
        DeviceChangedError: Memory ran out in the middle of training, and could not be done with
            less.

    Example:
        finder = autobatch.AutoBatch(base_batch_size=64)
        model.fit(finder.batch(dataset), epochs=10, callbacks=[finder])
        print(finder.result.batch_size, finder.result.learning_rate)
    """

    def __init__(
        self,
        base_batch_size: int | None = None,
        *,
        base_learning_rate: float | None = None,
        isolation: str = "auto",
        target_batch_size: int | None = None,
        bucket_boundaries: Iterable[int] | str | None = None,
        buckets: int | None = None,
        max_length: int | None = None,
        on_too_long: str = "error",
        tokens_per_batch: bool = False,
        recover: bool = False,
        observer: Observer = ignore,
        **options: Any,
    ) -> None:
        super().__init__()
        if isolation not in live_search.ISOLATIONS:
            raise UsageError(
                f"isolation must be {', '.join(live_search.ISOLATIONS)}; received {isolation!r}."
            )
        for name in _NOT_HERE:
            if name in options:
                raise UsageError(
                    f"{name} is for autobatch.probe; the callback takes the model, its data and "
                    "its device as they are. Leave it out."
                )
        given = {
            "base_batch_size": base_batch_size,
            "base_learning_rate": base_learning_rate,
            "target_batch_size": target_batch_size,
        }
        options |= {name: value for name, value in given.items() if value is not None}
        self._options = ProbeOptions.checked(**options)
        self._isolation, self._observer, self._recover = isolation, observer, recover
        self._size = LateSize()
        self._wanted: BucketOptions | None = None
        self._buckets = LateBuckets()
        if bucket_boundaries is not None:
            if target_batch_size is not None:
                raise UsageError(
                    "bucket_boundaries and target_batch_size do not go together: a step of the "
                    "optimizer takes one batch of a bucket. Leave one out."
                )
            self._wanted = BucketOptions.checked(
                boundaries=bucket_boundaries,
                buckets=buckets,
                max_length=max_length,
                on_too_long=on_too_long,
                tokens_per_batch=tokens_per_batch,
            )
            if isinstance(self._wanted.boundaries, tuple):
                self._buckets.boundaries = self._wanted.boundaries
            self._buckets.max_length = max_length
            self._buckets.on_too_long = on_too_long
        elif max_length is not None or buckets is not None or tokens_per_batch:
            raise UsageError(
                "max_length, buckets and tokens_per_batch are for bucket_boundaries; received them "
                'without. Give the boundaries, or bucket_boundaries="auto".'
            )
        self._began = False  # this `fit` has had its search
        self._searched: tuple[Any, ...] | None = None  # what for
        self._scaled: Any = None  # the optimizer whose rate is ours, and for which size
        self._scaled_to: int | None = None
        self._guard: guard.Guard | None = None
        self.result: ProbeResult | BucketResult | None = None
        self.micro_batch_size: int | None = None

    def batch(
        self,
        data: Any,
        *,
        batched: bool | None = None,
        shuffle: bool = False,
        sample: Any = None,
    ) -> LateBatches:
        """The data in batches whose size is chosen when they are read.

        Shuffling, caching and prefetching of a dataset keep their meaning.

        Args:
            data: A `tf.data.Dataset` of samples or of batches, a `keras.utils.PyDataset`, or
                arrays, nested as `(x, y)` or `(x, y, sample_weight)`.
            batched: Whether a dataset's elements are batches. Defaults to what it looks like.
            shuffle: Shuffle arrays anew in each epoch, as `fit` does with them. Defaults to no.
            sample: One batch of the data for trials. Needed only where none can be read without
                changing what a dataset gives next, and its shapes are open.

        Raises:
            UsageError: The data is of another kind.
        """
        if self._wanted is not None:
            if shuffle or batched:
                raise UsageError(
                    "With bucket_boundaries finder.batch takes a dataset of samples: shuffle it by "
                    "its own shuffle(), and leave batched out."
                )
            return late_sources.late_buckets(data, self._size, self._buckets, sample=sample)
        return late_sources.late_batches(
            data, self._size, batched=batched, shuffle=shuffle, sample=sample
        )

    # -- what Keras calls --------------------------------------------------------------------

    def set_params(self, params: dict[str, Any]) -> None:
        """Search, before any callback has begun: all of them see the size and the rate."""
        super().set_params(params)
        self._began = False
        call = fit_call.find(self.model)
        if call is not None:
            self._begin(call)
            if not call.has_own_steps:
                params["steps"] = call.iterator.num_batches

    def on_train_begin(self, logs: Any = None) -> None:
        """Search now, where Keras did not tell before."""
        if not self._began:
            self._begin(fit_call.find(self.model))
            self.model.make_train_function()
        assert self.result is not None
        call = fit_call.find(self.model)
        tensorboard.log(call.callbacks if call else (), self.result)
        self._guard = guard.Guard(
            self.model,
            self.result,
            on_recovery=self._on_recovery if self._recover else None,
            micro_batch_size=self.micro_batch_size,
        )

    def on_test_begin(self, logs: Any = None) -> None:
        """Watch the validation of a training, too."""
        if self._guard is not None:
            self._guard.begin_test()

    def on_test_end(self, logs: Any = None) -> None:
        """Leave the model as `evaluate` leaves it."""
        if self._guard is not None:
            self._guard.end_test()

    def on_train_end(self, logs: Any = None) -> None:
        """Leave the model as `fit` leaves it; the next one begins anew."""
        self._began = False
        self._unguard()

    def _unguard(self) -> None:
        if self._guard is not None:
            self._guard.remove()
            self.micro_batch_size = self._guard.micro_batch_size
            self._guard = None

    def _on_recovery(self, said: str) -> None:
        assert self.result is not None
        assert self._guard is not None
        self.micro_batch_size = self._guard.micro_batch_size
        known = (*self.result.warnings, said)
        self.result = msgspec.structs.replace(self.result, warnings=known)
        self._observer(Notice(said))
        warnings.warn(said, RuntimeWarning, stacklevel=2)

    # -- the search --------------------------------------------------------------------------

    def _begin(self, call: FitCall | None) -> None:
        self._unguard()  # of a training that was interrupted
        late, same_count = self._find_data(call)
        _build(self.model, late)
        if self._recover:
            micro_batches.require(self.model)  # refused before the search, not after it
        what = self._what(late)
        if self.result is None or self._searched is None or not _same(self._searched, what):
            self.micro_batch_size = None
            accumulation.unwrap(self.model)
            self.result = self._scale(self._search(late))
            self._searched = what
            if isinstance(self.result, ProbeResult) and self._options.target_batch_size is not None:
                accumulation.set_steps(self.model, self.result.gradient_accumulation_steps)
        if isinstance(self.result, BucketResult):
            self._buckets.boundaries = self.result.boundaries
            self._buckets.max_length = self.result.max_length
            self._buckets.axes = self.result.sequence_axes
            self._size.buckets = self.result.batch_sizes
            self._size.value = _samples_a_step(self.result)
        else:
            self._size.value = self.result.batch_size * live_search.replicas(self.model)
        batches = late.batches()
        if call is not None and not call.has_own_steps and same_count and batches is not None:
            call.set_steps(batches)
        self._began = True

    def _find_data(self, call: FitCall | None) -> tuple[LateBatches, bool]:
        found, same = late_batches.find(call.dataset if call else None, self._size)
        if found is None:
            raise UsageError(
                "AutoBatch is among the callbacks, but the training data does not come from its "
                "batch(), so its batch size cannot be changed any more. Write: "
                "model.fit(finder.batch((x, y), shuffle=True), callbacks=[finder]) for arrays, or "
                "model.fit(finder.batch(dataset), callbacks=[finder]), without batch_size."
            )
        return found, same

    def _what(self, late: LateBatches) -> tuple[Any, ...]:
        """What a search is for: objects, and what of them may change."""
        model = self.model
        weights = [(tuple(w.shape), str(w.dtype), w.trainable) for w in model.weights]
        return (
            (model, model.optimizer, getattr(model, "_compile_config", None)),
            weights,
            late.element_spec,
            late.samples,
        )

    def _search(self, late: LateBatches) -> ProbeResult | BucketResult:
        if self._wanted is not None:
            return live_search.search_buckets(
                self.model,
                late.sample,
                self._search_options(),
                self._wanted,
                lengths=late.read_lengths(),
                isolation=self._isolation,
                recover=self._recover,
                observer=self._observer,
            )
        return live_search.search(
            self.model,
            late.sample,
            self._search_options(),
            samples=late.samples,
            batch_size=late.own_batch_size,
            isolation=self._isolation,
            recover=self._recover,
            observer=self._observer,
        )

    # -- the learning rate -------------------------------------------------------------------

    def _search_options(self) -> ProbeOptions:
        """The options, and what the rate of the live optimizer is to be scaled from."""
        options, optimizer = self._options, self.model.optimizer
        if self._scaled is optimizer:  # it stands for the size of the search before this one
            return msgspec.structs.replace(
                options, base_batch_size=self._scaled_to, base_learning_rate=None
            )
        if self._keeps_rate():
            return msgspec.structs.replace(options, learning_rate_rule="none")
        return options

    def _keeps_rate(self) -> bool:
        """Whether the optimizer has trained before we saw it: its rate may be scaled already."""
        optimizer = self.model.optimizer
        if self._options.base_learning_rate is not None or self._scaled is optimizer:
            return False
        return int(keras.ops.convert_to_numpy(optimizer.iterations)) > 0

    def _scale(self, result: ProbeResult | BucketResult) -> ProbeResult | BucketResult:
        optimizer = self.model.optimizer
        if self._keeps_rate():
            result = msgspec.structs.replace(result, warnings=(*result.warnings, _KEPT))
        else:
            rates.apply(self.model, result.learning_rates)
            self._scaled, self._scaled_to = optimizer, _samples_a_step(result)
        return result


def _samples_a_step(result: ProbeResult | BucketResult) -> int:
    """What the rate stands for."""
    if isinstance(result, BucketResult):
        return max(1, round(result.mean_batch_size))
    return result.global_batch_size


_KEPT = (
    "The optimizer has trained before, so its learning rate may have been scaled already, and was "
    "left as it is. To have it set, give the rate and size it was chosen for: "
    "AutoBatch(base_batch_size=..., base_learning_rate=...)."
)


def _build(model: Any, late: LateBatches) -> None:
    """Build a model that waits for its first batch, as that batch would."""
    if not model.built:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(late.sample)
        model(keras.tree.map_structure(lambda leaf: leaf[:1], x))


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """Whether nothing changed that memory depends on: objects by identity, the rest by value."""
    objects = all(a is b for a, b in zip(before[0], now[0], strict=True))
    return objects and bool(before[1:] == now[1:])
