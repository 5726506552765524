"""Probes that were stopped, and probes that are asked again. Each with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autobatch import journal, result_cache
from autobatch.records import Outcome, Trial

pytestmark = pytest.mark.tensorflow
SAMPLES = Path(__file__).resolve().parent / "samples"
SMALL = ["--device=cpu", "--memory-limit=128MiB", "--steps=2", "--proof-steps=2", "--json"]


def start(target: str, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """A probe of a sample."""
    return subprocess.Popen(
        [sys.executable, "-m", "autobatch", "probe", target, *SMALL, *arguments],
        cwd=SAMPLES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Where the tests run in the background of a shell, it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **settings,
    )  # fmt: skip


def probe(target: str, *arguments: str, **settings: Any) -> tuple[int, dict[str, Any], str]:
    """Its exit status, its JSON, and its stderr."""
    process = start(target, *arguments, **settings)
    stdout, stderr = process.communicate(timeout=400)
    return process.returncode, json.loads(stdout), stderr


def stopped_after(
    trials: int, path: Path, *arguments: str, sign: signal.Signals
) -> tuple[int, str]:
    """Stop a probe in the trial after so many; its status and stdout."""
    asleep = {**os.environ, "SLOW_FROM": str(2 ** (trials + 1)), "SLOW_SECONDS": "600"}
    process = start("slow.py:build_model", "--max=32", f"--journal={path}", *arguments, env=asleep)
    until = time.monotonic() + 300
    while len(read(path)) < trials:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sign)
    stdout, _ = process.communicate(timeout=200)
    return process.returncode, stdout


def read(path: Path) -> tuple[Trial, ...]:
    with contextlib.suppress(FileNotFoundError):
        return journal.parse(path.read_bytes()).trials
    return ()


def of(answer: dict[str, Any]) -> tuple[Trial, ...]:
    return msgspec.convert(answer["trials"], tuple[Trial, ...])


def test_asked_again_one_proof_is_all_it_takes(cache_folder):
    status, first, _ = probe("tiny.py", "--max=16")
    assert (status, first["earlier_trials"]) == (0, 0)
    status, again, said = probe("tiny.py", "--max=16")
    assert status == 0
    assert again["earlier_trials"] == len(first["trials"])
    *earlier, proof = of(again)
    assert tuple(earlier) == of(first)
    assert proof.proof
    assert proof.outcome is Outcome.FITS
    same = ("batch_size", "learning_rate", "limited_by", "device", "headroom_bytes", "versions")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert "It is proven anew" in said
    # the third time it is what it was the second: no trial is added to what is kept
    assert len(probe("tiny.py", "--max=16", "--base-lr=0.5")[1]["trials"]) == len(again["trials"])
    status, searched, _ = probe("tiny.py", "--max=16", "--no-cache")
    assert searched["earlier_trials"] == 0
    assert [t.batch_size for t in of(searched)] == [t.batch_size for t in of(first)]
    assert not list((cache_folder / "journals").iterdir())


def test_an_answer_that_does_not_hold_is_forgotten_and_searched_for(cache_folder, tmp_path):
    """One that was tampered with, here: the proof shows that it is none."""
    arguments = ("large.py:build_model", "--max=64", "--memory-limit=24MiB")
    _, first, _ = probe(*arguments)
    cache = result_cache.open_cache()
    ((entry,), _) = cache.entries()
    size = 1_000_000  # 4 GiB of inputs
    forged = tuple(
        msgspec.structs.replace(trial, batch_size=size) if trial.proof else trial
        for trial in entry.trials
    )
    cache.store(msgspec.structs.replace(entry, batch_size=size, trials=forged))
    status, answer, said = probe(*arguments)
    assert status == 0
    assert answer["batch_size"] == first["batch_size"]
    assert answer["earlier_trials"] == 0
    failed, *searched = of(answer)
    assert (failed.batch_size, failed.proof, failed.outcome is Outcome.FITS) == (size, True, False)
    # A whole search, from its first size to the proof. Peaks scatter, and the sizes between may.
    sizes = [t.batch_size for t in searched if not t.proof]
    assert sizes[0] == of(first)[0].batch_size
    assert len(sizes) > 2
    assert sizes == sorted(set(sizes))
    assert [t.batch_size for t in searched if t.proof] == [first["batch_size"]]
    assert searched[-1].proof
    assert "That proof failed" in said
    ((kept,), _) = cache.entries()
    assert kept.batch_size == first["batch_size"]
    assert kept.trials == tuple(searched)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_probe_goes_on_where_it_was(tmp_path, sign):
    path, output = tmp_path / "journal", tmp_path / "result"
    status, stdout = stopped_after(2, path, f"--output={output}", sign=sign)
    before = read(path)
    assert [t.batch_size for t in before] == [2, 4]
    if sign == signal.SIGKILL:
        assert status == -signal.SIGKILL
        assert not output.exists()
    else:
        assert status == 130
        assert output.read_text() == stdout
        assert json.loads(stdout)["error"]["kind"] == "interrupted"
        assert of(json.loads(stdout)) == before
    arguments = ("slow.py:build_model", "--max=32", f"--journal={path}", "--no-cache")
    status, answer, _ = probe(*arguments, "--resume", f"--output={output}")
    assert status == 0
    assert json.loads(output.read_text()) == answer
    assert answer["batch_size"] == 32
    assert answer["earlier_trials"] == len(before)
    assert of(answer)[: len(before)] == before
    assert [t.batch_size for t in of(answer)] == [2, 4, 8, 16, 32, 32], "as if never stopped"
    assert read(path) == of(answer)
    if sign == signal.SIGINT:  # resumed once more, all it does is prove
        status, again, _ = probe(*arguments, "--resume")
        assert status == 0
        assert of(again)[:-1] == of(answer)
        assert of(again)[-1].proof


INTERRUPTED_WHILE_KEEPING = """
import json, os, signal, sys
import autobatch
from autobatch import journal

add = journal.Journal.add

def then_interrupted(self, trial):
    add(self, trial)
    if trial.batch_size == 4:
        os.kill(os.getpid(), signal.SIGINT)

journal.Journal.add = then_interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
limits = {"device": "cpu", "memory_limit": "128MiB", "maximum": 32}
try:
    autobatch.probe("tiny.py", journal=sys.argv[1], cache=False, **limits)
except autobatch.ProbeInterrupted as interrupted:
    print(json.dumps([trial.batch_size for trial in interrupted.trials]))
"""


def test_a_trial_that_was_kept_is_told_of(tmp_path):
    """Ctrl-C in the very moment in which a trial is on disk, and not yet anywhere else."""
    path = tmp_path / "journal"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_KEEPING, str(path)],
        cwd=SAMPLES, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    kept = [trial.batch_size for trial in read(path)]
    assert kept[-1:] == [4], done.stderr
    assert json.loads(done.stdout) == kept


def test_another_probe_says_what_differs_and_starts_anew(tmp_path):
    path = tmp_path / "journal"
    probe("tiny.py", "--max=4", f"--journal={path}", "--no-cache")
    status, answer, said = probe("large.py", "--max=4", f"--journal={path}", "--resume")
    assert status == 0
    assert answer["earlier_trials"] == 0
    (warning,) = [w for w in answer["warnings"] if "starting anew" in w]
    assert "the model (its structure" in warning
    assert "starting anew" in " ".join(said.split())


def test_a_journal_whose_proof_does_not_hold_is_started_anew(tmp_path):
    path = tmp_path / "journal"
    arguments = ("large.py:build_model", "--max=64", "--memory-limit=24MiB", f"--journal={path}")
    _, first, _ = probe(*arguments, "--no-cache")
    trial = Trial(batch_size=64, outcome=Outcome.FITS, peak_bytes=1)
    header = journal.parse(path.read_bytes()).header
    size = 64  # the largest allowed, and said to have been proven
    proof = msgspec.structs.replace(of(first)[-1], batch_size=size)
    path.write_bytes(b"".join(map(journal.line, (header, trial, proof))))
    status, answer, _ = probe(*arguments, "--no-cache", "--resume")
    assert status == 0
    assert answer["batch_size"] == first["batch_size"]
    assert of(answer)[-1].proof


def test_a_failure_is_in_the_file_as_it_is_in_the_json(tmp_path):
    output = tmp_path / "result"
    for target, expected in (("broken.py:raises", 4), ("nowhere.py", 2)):
        status, answer, _ = probe(target, f"--output={output}")
        assert status == expected
        assert json.loads(output.read_text()) == answer
        assert "error" in answer


def test_a_result_that_cannot_be_written_is_a_failure_that_still_tells_it(tmp_path):
    status, answer, said = probe("tiny.py", "--max=2", "--output=/dev/full")
    assert status == 1
    assert answer["error"]["kind"] == "storage"
    assert "Batch size 2 was found and proven" in answer["error"]["message"]
    assert "No space left on device" in answer["error"]["message"]
    assert of(answer)[-1].proof
    assert "BATCH SIZE  2" in said
    script, loaded = tmp_path / "train.py", tmp_path / "loaded"
    script.write_text(f"open({str(loaded)!r}, 'w')\n")
    status, answer, _ = probe(str(script), "--output=/nowhere/result")
    assert (status, answer["error"]["kind"]) == (2, "usage")
    assert not loaded.exists(), "said before anything is loaded"


def test_the_library_asks_the_cache_too():
    program = (
        "import autobatch, tiny\n"
        "told = {'device': 'cpu', 'memory_limit': '128MiB', 'maximum': 2, 'steps': 2,"
        " 'proof_steps': 2}\n"
        "results = [autobatch.probe(tiny.build_model, **told) for _ in range(2)]\n"
        "results.append(autobatch.probe(tiny.build_model, cache=False, **told))\n"
        "print([r.earlier_trials for r in results], [r.batch_size for r in results])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SAMPLES, capture_output=True, text=True, timeout=400
    )
    assert done.stdout.strip() == "[0, 2, 0] [2, 2, 2]", done.stderr


LITTER = """
import tempfile
import keras
import tensorflow as tf

tempfile.mkdtemp()  # of a user who does not clean up


def halved(x, y):
    if tf.reduce_sum(x) > 0:  # AutoGraph writes this function anew, into a temporary file
        x = x / 2
    return x, y


data = tf.data.Dataset.from_tensor_slices((tf.zeros((8, 4)), tf.zeros((8, 1)))).map(halved)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(data.batch(2))
"""


def test_no_temporary_file_of_a_worker_is_left(tmp_path):
    (tmp_path / "train.py").write_text(LITTER)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    status, *_ = probe(
        str(tmp_path / "train.py"), "--max=2", env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert status == 0
    assert not list(temporary.iterdir())


# -- what a signature tells apart ------------------------------------------------------------------


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "signatures.py"], cwd=SAMPLES, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_that_train_alike_have_one_signature(told):
    models = told["models"]
    alike = [("plain", "again"), ("plain", "trained"), ("plain", "rate"), ("seed", "seed again")]
    alike += [("scaled", "scaled, documented"), ("opaque", "opaque again")]
    for one, other in alike:
        assert models[one] == models[other], (one, other)


def test_models_that_do_not_have_others(told):
    others = {"again", "trained", "rate", "seed again", "scaled, documented", "opaque again"}
    different = {name: value for name, value in told["models"].items() if name not in others}
    assert len(set(different.values())) == len(different), different


def test_data_of_one_form_has_one_signature_and_no_other(told):
    data = told["data"]
    for name in [name for name in data if name.endswith("again")]:
        other = name.removesuffix("again").strip() or "plain"
        assert data[name] == data[other], name
    different = {name: value for name, value in data.items() if not name.endswith("again")}
    assert len(set(different.values())) == len(different), different
