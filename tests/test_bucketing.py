"""Data in buckets as TensorFlow makes them, and a training's data at any length: one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.tensorflow

COUNTS = [[1, 1], [2, 2], [3, 2], [4, 1], [8, 1], [9, 1], [11, 1], [12, 1]]
VALUES = {
    # lengths 2, 3, 9, 4, 12, 1, 8, 3, 11, 2 in buckets of up to 4 (4 a batch), 9 and 12 (2 each)
    "batches": [[[4, 4], [2, 9], [2, 12], [2, 3]], [1, 2, 2, 3, 3, 4, 8, 9, 11, 12]],
    "batches_by_a_function_of_the_user": [[4, 4], [2, 9], [2, 12], [2, 3]],
    "dropped_remainder": [[4, 4], [2, 9], [2, 12]],
    "padded_to_the_boundary": [[4, 4], [2, 9], [2, 12], [2, 4]],
    "padding_values": [[[1, -1, -1], [1, 1, 1]]],
    "too_long_is_truncated": [[[2, 12], [1, 3]], [3, 13, 40]],
    "too_long_by_a_function_of_the_user_is_truncated": [[2, 12], [1, 3]],
    "a_target_that_is_longer_than_its_input": [
        [[[1, 3], [1, 5]]],
        [[[1, 3], [1, 5]], [[1, 3], [1, 12]]],
    ],
    "two_open_dimensions_of_which_the_probe_found_one": [[[1, 30, 3], [1, 30, 12]], [[1, 30, 3]]],
    "a_tuple_of_one": [[1, [[1, 1, 1], [1, 1, 7]]]],
    "samples_out_of_batches": [[2, 3]],
    "too_long_is_dropped": [[[1, 3], [1, 12]], [3, 12]],
    "no_open_dimension_but_a_function": [[2, 7], [2, 7]],
    "nested_elements": [
        [[2, 4], [2, 3], [2, 3], [2, 3, 2], [2, 3]],
        [[1, 9], [1, 3], [1, 8], [1, 8, 2], [1, 8]],
        [[1, 12], [1, 3], [1, 11], [1, 11, 2], [1, 11]],
    ],
    "nested_elements_truncated": [
        [[1, 3], [1, 3], [1, 2], [1, 2, 2], [1, 2]],
        [[1, 12], [1, 3], [1, 12], [1, 12, 2], [1, 12]],
    ],
    "axis_of_the_only_open_dimension": [0, None],
    "axis_where_the_data_is_fixed": [0, None],
    "axis_of_two_open_dimensions_is_the_one_that_varies": [0, None],
    "axis_of_two_that_vary_and_is_named": [1, None],
    "axes_of_several_inputs_and_a_target": [0, None, 0],
    "rows_of_samples_up_to_their_longest": 12,
    "rows_for_a_model_without_declared_inputs": [[0, None], 12],
    "rows_of_what_repeats": [[1, 2], [2, 5], [3, 5], [4, 3], [8, 2], [9, 3], [11, 2], [12, 3]],
    "shapes_in_turn_for_fit": [
        [None, None],
        [[3, 10], [2, 20], [1, 10], [3, 10], [2, 20]],
        [[3, 10], [2, 20]],
    ],
    "shapes_longer_than_what_this_worker_has_read": [12, [[2, 5], [3, 30]]],
    "own_buckets": [[5, 10], [3, 2, 1], 2, [[4, 4], [2, 9], [2, 12]], True, -1],
    "own_buckets_of_another_making": [None, None, None],
    "own_buckets_with_steps_behind": [
        [[2, 3], [2, 3], [2, 9], [2, 9], [2, 12], [2, 12], [4, 4], [4, 4]],
        24,
        True,
        True,
    ],
    "own_buckets_of_a_dictionary": {"words": [2, 3], "label": [2]},
    "own_buckets_above_the_longest_sample": [[5, 10], [[4, 4], [2, 9], [2, 12], [2, 3]]],
    "own_buckets_padded_to_their_boundaries": [
        [4, 9, 29, 30],
        [[4, 4], [2, 9], [2, 29], [2, 4]],
    ],
    "what_stands_in_the_way_of_own_buckets": {
        "nothing": [True, ""],
        "a step that counts batches": [False, "take stands behind bucket_by_sequenc"],
        "a step of two words": [False, "take_while stands behind bucket_by_s"],
        "batches put together with others": [False, "zip stands behind bucket_by_sequence"],
        "batches in a file": [False, "cache to a file stands behind bucket"],
        "a length of its own": [False, "Some of what bucket_by_sequence_leng"],
        "one length for all": [False, ""],
        "another batching": [False, ""],
    },
    "rows_of_buckets_with_a_map_behind": [["words"], [[3, 10]] * 3, 30, COUNTS],
    "rows_of_buckets_padded_to_their_boundaries": [29, 12, [8, 29]],
    # 4 of the first bucket, 2 of the others: 10 steps of 2 are 5 of 4
    "a_call_of_fit_in_its_own_buckets": [
        [[2, 9], [2, 12], [6, 4]],
        5,
        [[2, 9], [2, 12], [6, 4]],
        2,
    ],
    # up to 12 by the proven sizes; above in the script's own, but no larger ones: 2 of 3, 2 of 8
    "a_validation_on_longer_samples": [[1, 3], [1, 19], [2, 12], [2, 14], [2, 16], [2, 31]],
}
ERRORS = {
    "too_long_is_an_error": ("InvalidArgumentError", "A sample is longer than 12"),
    "an_unknown_word": ("UsageError", "error, truncate, drop; received 'cut'"),
    "batches_for_samples": ("UsageError", "this dataset has been batched"),
    "buckets_for_samples": ("UsageError", "this dataset has been batched"),
    "no_dataset": ("UsageError", "a tf.data.Dataset of samples; received list"),
    "no_open_dimension": ("UsageError", "Give element_length_func"),
    "axis_of_two_that_vary": ("UsageError", "--sequence-input x:1"),
    "axis_of_a_fixed_model": ("UsageError", "'x' is (batch, 50, 3)"),
    "axis_of_a_fixed_model_named": ("UsageError", "The model's sequence dimension is fixed"),
    "axis_of_no_input": ("UsageError", "names 'y'; the model's inputs are 'x'"),
    "axis_out_of_range": ("UsageError", "an axis from 1 to 2"),
    "axis_of_the_batch": ("UsageError", "0 is the batch"),
    "ragged_data": ("ModelError", "dense tensors"),
    "rows_of_nothing": ("ModelError", "no sample at all"),
    "a_call_of_fit_in_other_buckets": ("Unchanged", "bucketed by other lengths"),
    "a_call_of_fit_padded_to_other_lengths": ("Unchanged", "bucketed by other lengths"),
    "a_call_of_fit_whose_buckets_cannot_be_made_anew": ("Unchanged", "take stands behind"),
    "a_call_of_fit_without_buckets": ("Unchanged", "its data is not bucketed"),
    "a_sample_longer_than_was_proven": (
        "InvalidArgumentError",
        "A sample is longer than 11, the maximum length that the buckets were proven for. It is "
        "the longest that autobatch run found",
    ),
}
ROWS = {
    "rows_of_samples": COUNTS,
    "rows_of_padded_batches": COUNTS,
    "rows_of_buckets": COUNTS,
    "rows_of_arrays": [[12, 30]],
    "rows_made_up": None,
}


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("bucket_cases.py")],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return {line.pop("case"): line for line in lines}


def test_every_case_is_looked_at(seen: dict[str, Any]) -> None:
    assert set(seen) == {*VALUES, *ERRORS, *ROWS, "buckets_whose_sequences_can_be_told"}


def test_why_own_buckets_get_one_size(seen: dict[str, Any]) -> None:
    told = seen["buckets_whose_sequences_can_be_told"]["value"]
    assert told["plain"] == [True, ""]
    assert told["a model of one length"] == [False, ""]  # there one size is right
    can, why = told["two open dimensions"]
    assert not can
    assert why.endswith("--sequence-input x:1. autobatch buckets has that option.")
    can, why = told["two open dimensions, mapped"]
    assert not can
    assert "(None, None, 3): which is the sequence cannot be told where a map stands" in why
    can, why = told["a step that is not known"]
    assert not can
    assert why.startswith("take stands behind")
    assert "only map, prefetch, shuffle, cache (in memory), repeat and with_options" in why


@pytest.mark.parametrize("case", VALUES)
def test_value(seen: dict[str, Any], case: str) -> None:
    assert seen[case] == {"value": VALUES[case]}


@pytest.mark.parametrize("case", ERRORS)
def test_error(seen: dict[str, Any], case: str) -> None:
    kind, words = ERRORS[case]
    assert seen[case]["error"] == kind
    assert words in seen[case]["message"]


@pytest.mark.parametrize("case", ROWS)
def test_a_training_s_data_is_had_at_any_length(seen: dict[str, Any], case: str) -> None:
    rows = seen[case]["value"]
    assert (rows["axes"], rows["max_length"]) == ([0, 0], 20)
    assert rows["counts"] == ROWS[case]
    assert rows["batch"] == [[3, 10], [3, 10]]
    if case not in ("rows_made_up", "rows_of_arrays"):  # a row's own tokens, from the beginning
        again = rows["first"].index(1, 1)
        assert rows["first"] == [1 + place % again for place in range(10)]
