"""The callback in real calls of `fit`, each group in a TensorFlow process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).resolve().parent / "samples"
EMULATED = {
    "TF_CPU_ALLOCATOR_USE_BFC": "true",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


def sample(
    name: str, *arguments: str, mebibytes: int = 128, device: dict[str, str] | None = None
) -> list[Any]:
    """What a sample program prints, a line of JSON each, on the emulated device by default."""
    given = {**EMULATED, "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(mebibytes)}
    ran = subprocess.run(
        [sys.executable, name, *arguments],
        cwd=SAMPLES,
        env={**os.environ, **(given if device is None else device)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "ran out of data" not in ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("{", "["))]
    return [json.loads(line) for line in lines]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "runs",
    [
        [("float32", "process", False), ("mixed_float16", "process", "BackupAndRestore")],
        [("float32", "process", "BackupAndRestore"), ("mixed_float16", "worker", False)],
        [("float32", "worker", "BackupAndRestore")],
        [("float32", "process", "ModelCheckpoint")],
    ],
    ids=["process", "both", "worker", "loaded"],
)
def test_training_with_it_is_bit_for_bit_training_hard_coded_to_its_answer(
    runs: list[tuple[str, str, bool | str]],
) -> None:
    found = sample("callback_exact.py", json.dumps(runs))
    same = {"losses": 0.0, "state": 0.0, "drawn": True, "scaled": True}
    assert found == [same] * len(runs)


@pytest.mark.tensorflow
def test_every_kind_of_data_gives_all_of_its_rows_in_batches_of_the_size() -> None:
    found = sample("callback_fits.py", "kinds", "ways")
    whole = [[name, [8, 8], 8, 8, True] for name in ("rows", "batched", "arrays", "py")]
    assert found[:4] == whole
    assert found[4] == ["dropped", [6], 6, 6, True]  # 44 of 50 rows, and of those whole batches
    assert found[5] == [True, True, False, False]  # class weights changed the data's shape once
    # Keras counts to the end of the last three steps, whatever the data
    assert found[6:] == [["several steps a call", [9, 9], 8], ["eager, own step", [8], 8]]


@pytest.mark.tensorflow
def test_nested_data_and_keras_own_callbacks_beside_it() -> None:
    found = sample("callback_fits.py", "nested", "others")
    assert found[:2] == [[[8], 8, True]] * 2
    # Half the rate for half the batch, and then halved after each of the last three epochs.
    assert found[2] == ["others", 4, 0.05, 0.00625]


@pytest.mark.tensorflow
def test_replicas_share_a_batch() -> None:
    found, refused = sample("callback_fits.py", "mirrored")
    assert found == [[4], 4, [7, 14], "fresh_process"]
    assert "several replicas do not go together" in refused[0]


@pytest.mark.tensorflow
def test_a_process_that_holds_a_gpu_tries_in_itself(emulated_gpu: Callable[..., None]) -> None:
    emulated_gpu(512)
    found, refused = sample("callback_fits.py", "gpu", device={})
    assert found == ["this_process", "gpu"]
    assert "has taken the GPU's memory, so no worker can have it" in refused[0]


@pytest.mark.tensorflow
def test_a_training_in_micro_batches_goes_on_from_where_it_was_cut_off() -> None:
    found = sample("callback_fits.py", "resumed")
    ways = [None, "BackupAndRestore", "ModelCheckpoint"]
    assert found == [[way, True, 6] for way in ways]


@pytest.mark.tensorflow
def test_where_memory_is_taken_the_training_goes_on_as_if_it_had_not_been() -> None:
    held, *found = sample("callback_recovers.py", "state", "weights", "first", "validation")
    assert held == [True, True, True, True]
    for each in found:
        assert each["far"] < 1e-5, each
        assert each["told"] < 1e-5, each
        assert each["drawn"], each
        assert each["own"] == "method", each  # the optimizer's, and no longer ours
        assert each["steps"][0] == each["steps"][1]
        assert each["size"] == 101
    first, second, third = found
    said = "each batch is trained"
    for each in (first, second):  # where the hole is, chance decides
        assert each["micro"] in (13, 26, 51), each
        assert (set(each["said"]), each["steps"]) == ({said}, [8, 8])
    assert third["said"][0] == "validation goes on", third


@pytest.mark.tensorflow
def test_recovery_with_a_loss_scale_a_training_step_of_ones_own_and_where_it_cannot_be() -> None:
    mixed, own, twice, two, total = sample(
        "callback_recovers.py", "mixed", "own", "fails", "refusals"
    )
    assert mixed["far"] < 1e-3  # of float16
    assert mixed["steps"] == [8, 8]
    assert own["far"] < 1e-5
    assert own["steps"] == [4, 4]  # of two batches each
    for each in (mixed, own):
        assert each["micro"] in (13, 26, 51), each  # where the hole is, chance decides
        assert set(each["said"]) == {"each batch is trained"}
    assert "does not give its gradients to its optimizer exactly once" in twice[0]
    assert twice[1] == 4  # two steps of two each, as the last completed one left it
    assert "one optimizer; this one has optimizer, second" in two[0]
    assert "MeanSquaredError is their sum" in total[0]


@pytest.mark.tensorflow
def test_rates_are_scaled_once_batches_accumulate_and_refusals_name_the_line_to_write() -> None:
    found = sample("callback_fits.py", "rates", "accumulation", "refusals")
    assert found[:2] == [["number", 0.05, None, 0.025], ["schedule", 0.05, 200, 0.049215]]
    # A loaded optimizer's rate may be scaled already: it stays, unless its base is given.
    assert found[2:4] == [["loaded", 0.05, 0.05, True], ["loaded", 0.1, 0.1, False]]
    # far < 1e-6, steps of the optimizer in both, micro-batch, how many, batch
    assert found[4:8] == [[True, 4, 4, 5, 4, 20], [True, 5, 5, 5, 4, 20]] * 2
    said = [each[0] for each in found[8:15]]
    assert "model.fit(finder.batch((x, y), shuffle=True), callbacks=[finder])" in said[0]
    assert said[0] == said[1]
    for words, message in zip(
        ("from_generator", "sample=batch", "use_ema", "received 'thread'", "Leave it out"),
        said[2:],
        strict=True,
    ):
        assert words in message
    assert found[15] == [7]


@pytest.mark.tensorflow
def test_a_search_in_the_process_that_trains_never_meets_the_limit_and_a_later_loss_is_told() -> (
    None
):
    message, searched, written, function = sample("callback_fits.py", "limits")
    outcomes, limit, size, trials = searched
    assert set(outcomes) <= {"fits", "too_close"}
    assert limit == "memory"
    assert 100 < size < 250  # not where it dies now and then, which is from 280 on
    assert trials < 14
    assert "What has changed since: what this process has in use on the device was" in message[0]
    assert written == [True, True, True]
    assert function == ["function"]  # Keras's own again


@pytest.mark.tensorflow
def test_a_search_in_the_process_that_trains_leaves_no_memory_in_use() -> None:
    """Nor moves weights to where they did not lie, nor keeps checkpoints from being saved."""
    found = {name: value for each in sample("callback_memory.py") for name, value in each.items()}
    assert found["begun"] < found["before"] + found["weights"] / 16  # no slots of the trials
    assert found["peak"] < found["held"] + found["weights"] / 16  # no variable beside its old self
    assert found["same"]
    assert found["falls"]  # with an optimizer that the trials have left behind


@pytest.mark.tensorflow
def test_samples_go_into_buckets_each_of_its_own_size() -> None:
    found = sample("callback_buckets.py", "worker", "refusals", mebibytes=512)
    boundaries, longest, sizes = found[0]
    assert (boundaries, longest) == ([12, 30], 40)
    assert sizes == [64, 64, 64]  # the maximum, far below what fits
    kind, counts = found[1]
    assert kind == "fresh_process"
    assert counts[0] == 400
    assert sum(counts) == 600
    rate, mean = found[2]
    steps = sum(count / 64 for count in counts)
    assert mean == pytest.approx(600 / steps, rel=0.01)
    assert rate == pytest.approx(0.01 * round(mean) / 16, rel=1e-4)  # SGD: linear
    assert found[3] == [[64, 64, 64], 40, True]
    assert found[4] == [2]
    said = [message for (message,) in found[5:]]
    for words, message in zip(
        ("has been batched", "do not go together", "increase", "both it and", "without"),
        said,
        strict=True,
    ):
        assert words in message


@pytest.mark.tensorflow
def test_buckets_of_several_replicas_are_refused() -> None:
    [[message]] = sample("callback_buckets.py", "mirrored")
    assert "bucket_boundaries and a strategy of 2 replicas do not go together" in message


def check_buckets_found_here(found: list[Any], device: str) -> None:
    """What was searched in the process that trains, to its limits, and what it left behind."""
    kind, where, sizes = found[0]
    assert (kind, where) == ("this_process", device)
    assert found[1] == ["fits"]
    assert found[2] == ["memory"] * 3
    assert sizes[0] > sizes[1] > sizes[2] > 8
    most, longest, all_of_them = found[3]
    assert most == [min(pair) for pair in zip(sizes, (400, 91, 109), strict=True)]
    assert most[0] == sizes[0]  # there are more samples than that
    assert (longest, all_of_them) == (40, True)
    assert found[4] == [True, True, True, True]  # losses, weights and slots, random numbers; rate


@pytest.mark.tensorflow
def test_buckets_are_searched_in_the_process_that_trains_and_leave_no_trace() -> None:
    check_buckets_found_here(sample("callback_buckets.py", "here=process", mebibytes=64), "cpu")


@pytest.mark.tensorflow
def test_a_process_that_holds_a_gpu_searches_buckets_in_itself(
    emulated_gpu: Callable[..., None],
) -> None:
    emulated_gpu(40)
    check_buckets_found_here(sample("callback_buckets.py", "here=auto", device={}), "gpu")


@pytest.mark.tensorflow
def test_the_readmes_snippets_run() -> None:
    assert sample("readme_callback.py") == [[24, 1], [24, 1], [24, 4], [8] * 5, [24, 1]]
