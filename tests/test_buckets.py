"""`autobatch buckets` and `probe_buckets`: bad input, and answers of real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import autobatch
from autobatch import devices, targets
from autobatch.bucket_options import BucketOptions
from autobatch.bucket_proof import proof_shapes
from autobatch.crew import Crew
from autobatch.errors import AutobatchError, UsageError
from autobatch.events import ignore
from autobatch.evidence import MIXED_HEADROOM
from autobatch.options import ProbeOptions
from autobatch.protocol import SequenceRequest
from autobatch.records import LimitKind, Outcome, ProofKind
from autobatch.units import MIB

SAMPLES = Path(__file__).resolve().parent / "samples"
LENGTHS = str(SAMPLES / "lengths.py")
SMALL = {"device": "cpu", "memory_limit": "96MiB", "steps": 3, "maximum": 512}
FLAGS = ["--device=cpu", "--memory-limit=96MiB", "--steps=3", "--max=512"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`autobatch buckets` with these arguments, run to its end."""
    program = [sys.executable, "-m", "autobatch", "buckets", *arguments]
    return subprocess.run(program, cwd=SAMPLES, capture_output=True, text=True, timeout=500)


def refused(*arguments: str, code: int = 2) -> str:
    """The message with which the command ends, which stdout holds and nothing else."""
    ended = command(*arguments, "--json")
    assert ended.returncode == code, ended.stderr
    return str(json.loads(ended.stdout)["error"]["message"])


# -- said before anything starts -----------------------------------------------------------------

WRONG = {
    "not increasing": (["--boundaries=20,20"], ["increase", "20 after 20"]),
    "falling": (["--boundaries=20,10"], ["increase", "10 after 20"]),
    "zero": (["--boundaries=0,10"], ["from 2 on", "received 0"]),
    "negative": (["--boundaries=-3,10"], ["from 2 on", "received -3"]),
    "above the maximum": (["--boundaries=20,90", "--max-length=60"], ["60", "90", "--max-length"]),
    "none": (["--boundaries=,"], ["at least one length"]),
    "a word": (["--boundaries=quantiles"], ["100,200,300", "auto", "'quantiles'"]),
    "both boundaries and their number": (["--boundaries=9,20", "--buckets=3"], ["both it and"]),
    "one bucket": (["--buckets=1"], ["at least 2", "autobatch probe"]),
    "maximum zero": (["--max-length=0"], ["max_length", "received 0"]),
    "too long": (["--on-too-long=crop"], ["error, truncate, drop", "'crop'"]),
    "a probe's option": (["--target-batch-size=64"], ["--target-batch-size"]),
    "a probe's bad option": (["--steps=0"], ["--steps"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_said_before_anything_starts(name: str) -> None:
    arguments, words = WRONG[name]
    message = refused("lengths.py", *arguments)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundaries": [10, 10]}, "increase"),
        ({"boundaries": ["10"]}, "expected `int`"),
        ({"boundaries": [10], "max_length": 5}, "above the maximum length"),
        ({"max_length": "60"}, "max_length: expected `int"),
        ({"target_batch_size": 64}, "target_batch_size is for autobatch.probe"),
        ({"prefer": "throughput"}, "prefer is for autobatch.probe"),
        ({"sequence_length": 9}, "sequence_length is for autobatch.probe"),
        ({"lengths": 9}, "Unknown option 'lengths'"),
    ],
)
def test_the_library_refuses_alike(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        autobatch.probe_buckets(LENGTHS, **options)


def test_the_defaults_are_those_of_the_documentation() -> None:
    options = BucketOptions.checked()
    assert (options.boundaries, options.buckets, options.max_length) == (None, 5, None)
    assert (options.on_too_long, options.tokens_per_batch) == ("error", False)
    assert BucketOptions.checked(buckets=3).boundaries == "auto"
    assert BucketOptions.checked(sequence_input="x:1").sequence_input == ("x:1",)


def test_json_that_is_no_result_of_buckets_is_refused() -> None:
    for text in ("{}", "[1]", '{"kind": "probe"}', "\x00"):
        with pytest.raises(AutobatchError, match="not a result of buckets"):
            autobatch.BucketResult.from_json(text)


# -- models and data that have no buckets --------------------------------------------------------


@pytest.mark.tensorflow
def test_a_model_of_one_length_has_no_buckets() -> None:
    message = refused("lengths.py:fixed_model", "--boundaries=20,40", *FLAGS)
    assert "No dimension of the model's inputs is unknown: 'tokens' is (batch, 60)" in message
    assert "keras.Input((None,))" in message


@pytest.mark.tensorflow
def test_a_sequence_dimension_that_is_fixed_is_said_to_be() -> None:
    message = refused(
        "lengths.py:fixed_model", "--boundaries=20,40", "--sequence-input=tokens", *FLAGS
    )
    assert "sequence dimension is fixed: 'tokens' is (batch, 60)" in message


@pytest.mark.tensorflow
def test_two_unknown_dimensions_have_to_be_told_apart(tmp_path: Path) -> None:
    source = (SAMPLES / "lengths.py").read_text().replace("def build_dataset", "def unused")
    (tmp_path / "alone.py").write_text(source)
    asked = [f"{tmp_path}/alone.py:unknown_twice", "--boundaries=20,40", "--max-length=60", *FLAGS]
    assert "--input-shape frames=" in refused(*asked, code=4)
    message = refused(*asked, "--input-shape=frames=60,8,1")
    assert "'frames' is (batch, None, None, 1)" in message
    assert "--sequence-input frames:1" in message


@pytest.mark.tensorflow
def test_longer_samples_than_the_maximum_are_an_error_unless_one_says_what_becomes_of_them() -> (
    None
):
    message = refused("lengths.py", "--boundaries=20", "--max-length=40", *FLAGS)
    assert "of 1200 samples are longer than the maximum length, 40 (the longest has 60)" in message
    assert "--on-too-long truncate" in message


@pytest.mark.tensorflow
def test_without_data_the_greatest_length_has_to_be_given(tmp_path: Path) -> None:
    source = (SAMPLES / "lengths.py").read_text().replace("def build_dataset", "def unused")
    (tmp_path / "alone.py").write_text(source)
    message = refused(f"{tmp_path}/alone.py:build_model", "--boundaries=20", *FLAGS)
    assert "--max-length" in message
    message = refused(f"{tmp_path}/alone.py:build_model", "--max-length=60", *FLAGS)
    assert "--boundaries 100,200,300" in message


@pytest.mark.tensorflow
def test_where_the_longest_does_not_fit_at_all_a_length_that_fits_is_named() -> None:
    message = refused("lengths.py", "--boundaries=20", "--max-length=5000", *FLAGS, code=3)
    assert "Batch size 1 does not fit at sequence length 5000: it needs" in message
    named = int(message.partition("Sequences of up to ")[2].split()[0])
    assert 60 < named < 5000
    assert f"--max-length {named} --on-too-long truncate" in message


# -- answers -------------------------------------------------------------------------------------


@pytest.mark.tensorflow
def test_every_bucket_has_a_size_that_was_proven_beside_the_others() -> None:
    result = autobatch.probe_buckets(LENGTHS, [15, 21, 31], base_batch_size=16, **SMALL)
    assert result.boundaries == (15, 21, 31)
    assert [(each.shortest, each.longest) for each in result.buckets] == [
        (0, 14), (15, 20), (21, 30), (31, 60),
    ]  # fmt: skip
    assert result.max_length == 60
    assert len(result.batch_sizes) == 4
    in_it = [each.samples or 512 for each in result.buckets]  # no larger than a whole epoch of it
    assert all(size <= most for size, most in zip(result.batch_sizes, in_it, strict=True))
    assert result.proof.kind is ProofKind.FRESH_PROCESS
    assert result.headroom_bytes == int(MIXED_HEADROOM * (96 << 20))
    for bucket in result.buckets:
        proven = [t for t in result.trials if t.proof and t.sequence_length == bucket.longest]
        assert proven[-1].outcome is Outcome.FITS
        assert proven[-1].batch_size == bucket.batch_size
        assert len(proven[-1].step_peak_bytes) >= 3
        assert bucket.peak_bytes is not None
        assert bucket.step_seconds is not None
        assert bucket.limited_by.kind in (LimitKind.MEMORY, LimitKind.MAXIMUM, LimitKind.DATASET)
    assert sum(each.samples or 0 for each in result.buckets) == 1200
    steps = [(each.samples or 0) / each.batch_size for each in result.buckets]
    assert result.mean_batch_size == pytest.approx(1200 / sum(steps), rel=0.01)
    rate = result.learning_rates[0]
    assert (rate.rule, rate.base_batch_size) == ("sqrt", 16)
    assert rate.batch_size == round(result.mean_batch_size)
    for bucket in result.buckets:
        times = (bucket.batch_size / rate.batch_size) ** 0.5
        assert bucket.learning_rate_factor == pytest.approx(times, rel=1e-4)
    assert result.padding is not None
    assert result.padding.padded < result.padding.static_padded
    assert any("No sample has a length of 21 to 30" in warning for warning in result.warnings)
    again = autobatch.BucketResult.from_json(result.to_json())
    assert again == result
    with pytest.raises(AutobatchError, match="schema version 99"):
        autobatch.BucketResult.from_json(
            msgspec.structs.replace(result, schema_version=99).to_json()
        )


def crew_of_lengths() -> Crew:
    """Workers that train samples/lengths.py."""
    options = ProbeOptions.checked(memory_limit="96MiB", device="cpu")
    return Crew(
        targets.resolve(LENGTHS),
        devices.choose(options),
        options,
        environment={},
        observer=ignore,
        deadline=time.monotonic() + 500,
        sequences=SequenceRequest(max_length=60),
    )


@pytest.mark.tensorflow
def test_a_size_is_foretold_by_another_one_of_its_length() -> None:
    with crew_of_lengths() as crew:
        crew.prepare()

        def foretold(size: int, length: int) -> int | None:
            trial = crew.measure(
                size, steps=3, trace=False, enough_bytes=90 * MIB, sequence_length=length
            )
            assert trial.outcome is Outcome.FITS, trial.why
            return trial.foretold

        told = [foretold(size, length) for size, length in ((2, 60), (10, 20), (15, 60), (64, 20))]
    assert told[:2] == [None, None]
    assert 300 < (told[2] or 0) < (told[3] or 0)


@pytest.mark.tensorflow
def test_a_proof_of_several_lengths_that_went_through_by_luck_is_told() -> None:
    """One whose steps need more than the limit by replay: here more than one that is too small."""
    shapes = proof_shapes((64, 32), (20, 60), 2)
    with crew_of_lengths() as crew:
        ample, small = (
            crew.prove_shapes(shapes, limit_bytes=limit).trial for limit in (96 * MIB, MIB)
        )
    assert ample.outcome is Outcome.FITS, ample.why
    assert small.outcome is Outcome.TOO_CLOSE
    assert "another order" in (small.why or "")
    assert (small.needed_bytes or 0) > MIB


@pytest.mark.tensorflow
def test_the_command_chooses_boundaries_and_prints_what_tensorflow_takes(tmp_path: Path) -> None:
    ended = command(
        "lengths.py", "--buckets=3", "--tokens-per-batch", "--on-too-long=drop", "--max-length=50",
        *FLAGS, "--quiet", f"--output={tmp_path / 'b.json'}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = autobatch.BucketResult.from_json((tmp_path / "b.json").read_text())
    lines = [line.strip() for line in ended.stdout.splitlines()]
    boundaries = next(x for x in lines if x.startswith("bucket_boundaries=["))
    sizes = next(x for x in lines if x.startswith("bucket_batch_sizes=["))
    ends = [*(b - 1 for b in json.loads(boundaries.partition("=")[2])), 50]
    found = json.loads(sizes.partition("=")[2])
    assert len(found) == len(ends) == 3
    tokens = max(size * end for size, end in zip(found, ends, strict=True))
    assert result.tokens_per_batch == tokens
    allowed = [min(each.samples or 0, 512) for each in result.buckets]  # one pass, and --max
    pairs = zip(ends, allowed, strict=True)
    assert [min(tokens // end, most) for end, most in pairs] == found
    assert "TOKENS" in ended.stdout
    assert "longer than the maximum length, 50" in " ".join(ended.stdout.split())
    assert "tokens a second" in " ".join(ended.stdout.split())


@pytest.mark.tensorflow
def test_run_trains_a_script_with_a_size_for_each_of_its_own_buckets() -> None:
    program = [sys.executable, "-m", "autobatch", "run", "bucketed_tagger.py", "--device=cpu"]
    options = ["--memory-limit=256MiB", "--max=48", "--steps=2", "--proof-steps=2"]
    ended = subprocess.run(
        [*program, *options],
        cwd=SAMPLES.parent / "scripts",
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (said,) = [line for line in ended.stderr.splitlines() if line.startswith("autobatch: ")]
    assert "fit trains with the batch sizes 48, 48, 48, 48 in its buckets" in said
    assert "samples a step on average instead of 24, learning rate" in said
    assert "(sqrt rule)" in said


# -- scripts that bucket their data themselves ---------------------------------------------------


def of_its_own(verb: str, what: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The script with buckets of its own, probed or run."""
    small = ("--device=cpu", "--memory-limit=256MiB", "--max=48", "--steps=2", "--proof-steps=2")
    program = [sys.executable, "-m", "autobatch", verb, "buckets_of_its_own.py", *small, *options]
    return subprocess.run(
        [*program, "--", what], cwd=SAMPLES, capture_output=True, text=True, timeout=550
    )


@pytest.mark.tensorflow
def test_a_scripts_boundary_above_its_samples_has_no_size() -> None:
    ended = of_its_own("probe", "plain", "--json")
    assert ended.returncode == 0, ended.stderr[-3000:]
    result = autobatch.BucketResult.from_json(ended.stdout)
    assert (result.boundaries, result.max_length) == ((20, 40), 54)
    assert result.batch_sizes == (48, 48, 48)
    assert [each.samples for each in result.buckets] == [73, 96, 71]
    assert any("above the maximum length, 54: 90." in each for each in result.warnings)
    assert result.base_batch_size == 16


@pytest.mark.tensorflow
def test_a_sample_longer_than_was_proven_ends_the_training_with_an_error() -> None:
    ended = of_its_own("run", "grown")
    said = "fit trains with the batch sizes 48, 48, 48 in its buckets, 48 samples a step"
    assert said in ended.stderr
    assert "a sample longer than 54 would end it with an error" in ended.stderr
    assert ended.returncode == 1
    assert "InvalidArgumentError" in ended.stderr
    assert "A sample is longer than 54, the maximum length" in ended.stderr
    assert "Cut or filter longer samples" in ended.stderr


@pytest.mark.tensorflow
def test_a_step_behind_buckets_that_cannot_be_done_again_is_named() -> None:
    named = "take stands behind bucket_by_sequence_length"
    ended = of_its_own("probe", "taken")
    assert ended.returncode == 0, ended.stderr[-3000:]
    page = " ".join(ended.stdout.split())
    assert f"All buckets of the script get one batch size here: {named}" in page
    assert "autobatch run" not in page, "which would refuse it"
    ended = of_its_own("run", "taken")
    assert ended.returncode == 2
    assert named in " ".join(ended.stderr.split())
    assert "fit trains" not in ended.stderr
