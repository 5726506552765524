"""The data of a probe of buckets: how long its sequences are, and where the buckets end. Pure."""

from __future__ import annotations

import msgspec

from autobatch import length_buckets
from autobatch.bucket_options import BucketOptions
from autobatch.errors import UsageError
from autobatch.length_buckets import Lengths
from autobatch.protocol import Prepared


def with_its_mean(prepared: Prepared) -> Prepared:
    """The same, where a script's own buckets have sizes, with their mean for its batch size."""
    lengths, sizes = prepared.lengths, prepared.bucket_batch_sizes
    if not sizes or lengths is None or not lengths.samples:
        return prepared
    inside = length_buckets.count(lengths, prepared.bucket_boundaries)
    steps = sum(each.samples / size for each, size in zip(inside, sizes, strict=True))
    return msgspec.structs.replace(
        prepared, script_batch_size=max(1, round(lengths.samples / steps))
    )


def settled_lengths(prepared: Prepared, on_too_long: str) -> tuple[Lengths | None, tuple[str, ...]]:
    """The lengths of what will be trained on, and what to say of it.

    Args:
        prepared: What the worker has loaded.
        on_too_long: What becomes of samples longer than the greatest length.

    Raises:
        UsageError: There are some, and that is an error.
    """
    lengths, most = prepared.lengths, prepared.max_length
    if lengths is None or most is None:
        return None, (
            "How long the data's sequences are is not known: all buckets count alike for the "
            "learning rate, and nothing is said of padding.",
        )
    notes: tuple[str, ...] = ()
    if not lengths.complete:
        notes = (
            f"The data was looked through in part only ({lengths.samples} samples); how often "
            "each length occurs is judged by them.",
        )
        if most == lengths.longest or most + 1 in prepared.bucket_boundaries:  # nobody gave it
            notes += (
                f"Longer samples may come: {lengths.longest} is the longest of those read, and "
                f"sizes are proven up to a length of {most}. Where longer ones do come, give the "
                "greatest length: max_length (autobatch buckets --max-length).",
            )
    beyond = lengths.beyond(most)
    if not beyond:
        return lengths, notes
    what = (
        f"{beyond} of {lengths.samples} samples are longer than the maximum length, {most} "
        f"(the longest has {lengths.longest})"
    )
    if on_too_long == "error":
        raise UsageError(
            f"{what}. Raise max_length (--max-length) to {lengths.longest}, or say what is to "
            "become of them: --on-too-long truncate or --on-too-long drop."
        )
    if on_too_long == "truncate":
        return lengths.truncated(most), (*notes, f"{what}; they are cut to it.")
    return lengths.without_longer(most), (*notes, f"{what}; they are left out.")


def settled_boundaries(
    prepared: Prepared, lengths: Lengths | None, wanted: BucketOptions
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The boundaries asked for, or the script's own, or those that the data asks for.

    Returns:
        Them, and what to say of it. Of the script's own, those that no sample reaches are left
        out: there may be none left.

    Raises:
        UsageError: They make no buckets, or there is nothing to choose them by.
    """
    most = prepared.max_length or 0
    boundaries = wanted.boundaries
    if boundaries is None and prepared.bucket_batch_sizes:
        return _reached(prepared.bucket_boundaries, most)
    if isinstance(boundaries, tuple):
        length_buckets.check(boundaries, most)
        return boundaries, ()
    if lengths is None:
        raise UsageError(
            "boundaries cannot be chosen (auto) where the lengths of the data are not known. "
            "Give them (--boundaries 100,200,300), or write a build_dataset() next to the "
            "model."
        )
    return length_buckets.choose(lengths, wanted.buckets), ()


def _reached(own: tuple[int, ...], most: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The script's own boundaries up to the maximum length, and what to say of the others."""
    reached = length_buckets.reached(own, most)
    if reached:
        length_buckets.check(reached, most)
    if reached == own:
        return own, ()
    above = ", ".join(map(str, own[len(reached) :]))
    return reached, (
        f"No sample reaches the script's boundaries above the maximum length, {most}: {above}. "
        "What lies beyond them was not proven and has no size here; autobatch run keeps those "
        "buckets and refuses samples that are longer.",
    )
