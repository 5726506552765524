"""The main job on GPUs, emulated ones: budgets, settings, neighbours, several at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvml_stand_in.build import Nvml, gpu

from autobatch.units import MIB

pytestmark = pytest.mark.tensorflow
HERE = Path(__file__).resolve().parent
WIDE = str(HERE / "samples" / "wide.py")
FUNCTION = f"{WIDE}:build_model"
ROUGHLY = ("--precision", "0.1", "--steps", "3", "--proof-steps", "3")


def probe(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `autobatch probe`."""
    done = subprocess.run(
        [sys.executable, "-m", "autobatch", "probe", *arguments, "--json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def deaths(answer: dict[str, Any]) -> int:
    return sum(trial["outcome"] == "out_of_memory" for trial in answer["trials"])


@pytest.mark.parametrize("jit", ["1", "0"])
def test_a_gpus_memory_is_searched_to_its_end_and_proven(
    emulated_gpu: Callable, monkeypatch: pytest.MonkeyPatch, jit: str
) -> None:
    emulated_gpu(192)
    monkeypatch.setenv("JIT", jit)
    code, answer = probe(FUNCTION, "--device=gpu:0", *ROUGHLY)
    assert code == 0, answer
    device = answer["device"]
    assert (device["kind"], device["index"], device["replicas"]) == ("gpu", 0, 1)
    assert device["budget_bytes"] == device["limit_bytes"] == 192 * MIB
    assert device["allocator"] == "bfc"
    assert answer["limited_by"]["kind"] == "memory"
    assert answer["batch_size"] > 500
    assert deaths(answer) <= 1
    assert all(peak <= 192 * MIB for peak in answer["proof"]["peak_bytes"])


def test_half_precision_is_proven_as_it_trains(
    emulated_gpu: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At small sizes: the CPU, whose kernels do the arithmetic, is slow at it."""
    emulated_gpu(192)
    monkeypatch.setenv("POLICY", "mixed_float16")
    code, answer = probe(FUNCTION, "--device=gpu:0", "--max=32", *ROUGHLY)
    assert code == 0, answer
    assert answer["batch_size"] == 32
    assert answer["limited_by"]["kind"] == "maximum"
    assert answer["learning_rate_rule"] == "sqrt"  # of the Adam that scales its losses


def test_a_limit_is_kept_in_the_proof_and_looked_beyond_in_the_search(
    emulated_gpu: Callable,
) -> None:
    emulated_gpu(1024)
    code, answer = probe(FUNCTION, "--device=gpu", "--memory-limit=128MiB", *ROUGHLY)
    assert code == 0, answer
    assert answer["device"]["limit_bytes"] == 1024 * MIB
    assert answer["device"]["budget_bytes"] == 128 * MIB
    assert deaths(answer) <= 1
    assert all(peak <= 128 * MIB for peak in answer["proof"]["peak_bytes"])


SETTINGS = {
    # set-up of the script -> allocator, limit of the search, budget
    "growth": ("bfc, memory growth", 512, 512),
    "limit": ("bfc", 512, 96),
    "session": ("bfc, memory growth", 512, 512),
    "share": ("bfc", 128, 128),
}


@pytest.mark.parametrize("setup", SETTINGS)
def test_a_scripts_own_settings_are_kept_and_told(
    emulated_gpu: Callable, monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    emulated_gpu(512)
    monkeypatch.setenv("SETUP", setup)
    code, answer = probe(WIDE, "--max=32", *ROUGHLY)
    assert code == 0, answer
    allocator, limit, budget = SETTINGS[setup]
    device = answer["device"]
    assert device["allocator"] == allocator
    assert (device["limit_bytes"], device["budget_bytes"]) == (limit * MIB, budget * MIB)


@pytest.mark.parametrize("setup", ["growth", "session"])
def test_growth_beside_a_limit_is_what_the_proof_runs_with(
    emulated_gpu: Callable, monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    emulated_gpu(512)
    monkeypatch.setenv("SETUP", setup)
    code, answer = probe(WIDE, "--memory-limit=128MiB", *ROUGHLY)
    assert code == 0, answer
    assert answer["device"]["allocator"] == "bfc, memory growth"
    assert answer["limited_by"]["kind"] == "memory"
    assert all(peak <= 128 * MIB for peak in answer["proof"]["peak_bytes"])


def test_what_a_neighbour_holds_is_not_in_the_budget(emulated_gpu: Callable, nvml: Nvml) -> None:
    emulated_gpu(512)
    nvml.say(gpu(0, 512), f"process pid=1 bytes={128 * MIB} name=/usr/bin/other")
    code, answer = probe(FUNCTION, "--device=gpu:0", "--max=32", *ROUGHLY)
    assert code == 0, answer
    assert answer["device"]["budget_bytes"] == 384 * MIB
    [neighbour] = answer["device"]["neighbours"]
    assert neighbour == {"pid": 1, "name": "/usr/bin/other", "used_bytes": 128 * MIB}
    assert "process 1 (/usr/bin/other: 128 MiB)" in answer["warnings"][0]
    assert answer["trials"][-1]["process_bytes"] == 384 * MIB  # by the driver's word


def test_a_mig_instances_memory_is_its_own(emulated_gpu: Callable, nvml: Nvml) -> None:
    emulated_gpu(192)
    instance = f"instance uuid=MIG-1 total={192 * MIB} used=0"
    nvml.say(gpu(0, 4096), "process pid=1 bytes=- name=/usr/bin/other", instance)
    code, answer = probe(FUNCTION, "--device=gpu:0", "--max=32", *ROUGHLY)
    assert code == 0, answer
    assert answer["device"]["neighbours"] == []


def test_the_gpu_that_a_variable_shows_first_is_gpu_0(emulated_gpu: Callable, nvml: Nvml) -> None:
    emulated_gpu("512,160", 2, CUDA_VISIBLE_DEVICES="GPU-emulated-1,0")
    nvml.say(gpu(0, 512), f"process pid=1 bytes={96 * MIB} name=/usr/bin/other", gpu(1, 160))
    code, answer = probe(FUNCTION, "--device=gpu:0", "--max=32", *ROUGHLY)
    assert code == 0, answer
    assert answer["device"]["budget_bytes"] == 160 * MIB
    assert answer["device"]["neighbours"] == []  # that of the other GPU is nobody's here


@pytest.mark.parametrize("code", [4, 12])
def test_without_nvml_a_gpu_is_probed_all_the_same(
    emulated_gpu: Callable, nvml: Nvml, code: int
) -> None:
    emulated_gpu(192)
    nvml.say(gpu(0, 192), f"fail call=nvmlInitWithFlags code={code}")
    status, answer = probe(FUNCTION, "--max=32", *ROUGHLY)
    assert status == 0, answer
    assert answer["device"]["kind"] == "gpu"


def test_memory_is_sampled_where_the_allocator_keeps_no_statistics(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu(256, TF_GPU_ALLOCATOR="cuda_malloc")
    nvml.say(gpu(0, 256), f"process pid=1 bytes={64 * MIB} name=/usr/bin/other")
    code, answer = probe(FUNCTION, "--device=gpu:0", *ROUGHLY)
    assert code == 0, answer
    device = answer["device"]
    assert (device["memory_read_from"], device["allocator"]) == ("nvml", "cuda_malloc")
    assert device["budget_bytes"] == 192 * MIB
    assert answer["headroom_bytes"] == int(0.13 * 192 * MIB)
    assert any("coarser" in said for said in answer["warnings"])
    assert answer["limited_by"]["kind"] == "memory"
    assert answer["batch_size"] > 500
    assert max(answer["proof"]["peak_bytes"]) > 64 * MIB  # the data of a step, and not nothing


def test_an_allocator_without_statistics_and_nvml_is_refused(emulated_gpu: Callable) -> None:
    emulated_gpu(256, TF_GPU_ALLOCATOR="cuda_malloc")
    code, answer = probe(FUNCTION, "--device=gpu:0")
    assert code == 5
    assert "unset TF_GPU_ALLOCATOR" in answer["error"]["message"]


def test_a_limit_is_kept_where_the_allocator_does_not_enforce_it(
    emulated_gpu: Callable,
) -> None:
    emulated_gpu(512, TF_GPU_ALLOCATOR="cuda_malloc_async")
    code, answer = probe(FUNCTION, "--device=gpu:0", "--memory-limit=128MiB", *ROUGHLY)
    assert code == 0, answer
    assert answer["device"]["memory_read_from"] == "allocator"
    assert answer["limited_by"]["kind"] == "memory"
    assert max(answer["proof"]["peak_bytes"]) <= 128 * MIB
    assert all(trial["needed_bytes"] is None for trial in answer["trials"])  # no BFC's rules


def test_speed_is_preferred_where_the_largest_size_spills(emulated_gpu: Callable) -> None:
    emulated_gpu(192, EMULATED_GPU_SPILL_MB="96")
    code, largest = probe(FUNCTION, "--device=gpu:0", *ROUGHLY)
    assert code == 0, largest
    assert any("--prefer throughput" in said for said in largest["warnings"])
    code, answer = probe(FUNCTION, "--device=gpu:0", "--prefer=throughput", *ROUGHLY)
    assert code == 0, answer
    assert answer["limited_by"]["kind"] == "throughput"
    assert answer["batch_size"] < largest["batch_size"]
    assert answer["samples_per_second"] > largest["samples_per_second"]


def test_a_tpu_is_refused_by_name(emulated_gpu: Callable) -> None:
    emulated_gpu(192, 0, EMULATED_ACCELERATOR="TPU")
    code, answer = probe(FUNCTION, *ROUGHLY)
    assert code == 5, answer
    assert "TensorFlow has TPU here" in answer["error"]["message"]
    code, answer = probe(FUNCTION, "--device=cpu", "--memory-limit=256MiB", "--max=8", *ROUGHLY)
    assert code == 0, answer


# -- a card that fails ---------------------------------------------------------------------------


def test_a_gpu_for_one_process_alone_serves_search_and_proof(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu(192)
    nvml.say(gpu(0, 192, mode=3))
    code, answer = probe(FUNCTION, "--device=gpu:0", "--max=32", *ROUGHLY)
    assert code == 0, answer


def test_a_gpu_that_another_process_has_for_itself_is_told(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu(192)
    nvml.say(gpu(0, 192, mode=3), f"process pid=1 bytes={MIB} name=/usr/bin/other")
    code, answer = probe(FUNCTION, "--device=gpu:0")
    assert code == 5, answer
    assert "compute mode is 'exclusive'" in answer["error"]["message"]


MOVING = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from nvml_stand_in.build import Nvml, gpu
import autobatch
from autobatch.events import TrialEnded, WorkerStage

nvml = Nvml(Path({folder!r}))
nvml.say(*(gpu(board, each) for board, each in enumerate({mib})))
ended = 0

def watch(event):
    global ended
    ended += isinstance(event, TrialEnded)
    if {when}:
        {act}

try:
    options = dict(precision=0.1, steps=3, proof_steps=3) | {options!r}
    print(autobatch.probe({target!r}, observer=watch, **options).to_json())
except autobatch.AutobatchError as error:
    print(autobatch.records.error_json(error))
    sys.exit(error.exit_code)
"""


AFTER_EACH = "isinstance(event, TrialEnded)"
IN_THE_MIDDLE = "ended == 1 and isinstance(event, WorkerStage) and event.stage == 'step'"


def probe_while(
    nvml: Nvml, act: str, *mib: int, when: str = AFTER_EACH, **options: str
) -> tuple[int, dict[str, Any]]:
    """A probe during which `act` runs, after each trial or in a step of the second."""
    program = MOVING.format(
        tests=str(HERE),
        folder=str(nvml.folder),
        mib=mib,
        act=act,
        when=when,
        target=FUNCTION,
        options={"device": "gpu:0", **options},
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=550
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_neighbour_that_comes_in_mid_search_has_its_memory(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu(256)
    take = f'ended == 2 and nvml.add("process pid=1 bytes={64 * MIB} name=/usr/bin/other")'
    code, answer = probe_while(nvml, take, 256)
    assert code == 0, answer
    assert answer["device"]["budget_bytes"] == 192 * MIB
    assert "process 1 (/usr/bin/other) took 64 MiB" in answer["warnings"][0]
    assert all(peak <= 192 * MIB for peak in answer["proof"]["peak_bytes"])


def test_a_neighbour_on_one_of_two_gpus_makes_that_the_smaller(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu("160,256", 2)
    take = f'ended == 2 and nvml.add("process pid=1 bytes={128 * MIB} name=/usr/bin/other")'
    two = {"device": "gpu:0,gpu:1", "strategy": "mirrored"}
    code, answer = probe_while(nvml, take, 160, 256, **two)
    assert code == 0, answer
    assert answer["device"]["budget_bytes"] == 128 * MIB
    assert answer["device"]["replicas"] == 2
    assert "process 1 (/usr/bin/other) took 128 MiB" in answer["warnings"][0]


def test_a_neighbour_that_never_rests_is_an_error_of_its_own(
    emulated_gpu: Callable, nvml: Nvml
) -> None:
    emulated_gpu(256)
    move = 'nvml.say(gpu(0, 256), f"process pid=1 bytes={(ended % 2 + 1) << 25} name=/bin/other")'
    code, answer = probe_while(nvml, move, 256)
    assert code == 7, answer
    assert answer["error"]["kind"] == "device_changed"
    assert "process 1 (/bin/other)" in answer["error"]["message"]


def test_a_gpu_that_is_lost_in_mid_search_is_told(emulated_gpu: Callable, nvml: Nvml) -> None:
    emulated_gpu(256)
    code, answer = probe_while(nvml, "nvml.say(gpu(0, 256, error=15))", 256)
    assert code == 5, answer
    assert "fell off the bus" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("broken", "said"), [("error=15", "fell off the bus"), ("ecc=1", "could not be corrected")]
)
def test_a_gpu_that_breaks_in_mid_trial_is_told(
    emulated_gpu: Callable, nvml: Nvml, broken: str, said: str
) -> None:
    emulated_gpu(256)
    code, answer = probe_while(nvml, f"nvml.say(gpu(0, 256, {broken}))", 256, when=IN_THE_MIDDLE)
    assert code == 5, answer
    assert said in answer["error"]["message"]
    assert [trial["outcome"] for trial in answer["trials"]] == ["fits"]


# -- several GPUs --------------------------------------------------------------------------------


def test_the_smaller_of_two_gpus_decides(emulated_gpu: Callable) -> None:
    emulated_gpu("160,256", 2)
    code, answer = probe(
        FUNCTION, "--devices=gpu:1,gpu:0", "--strategy=mirrored", "--base-lr=0.01", *ROUGHLY
    )
    assert code == 0, answer
    assert answer["device"]["replicas"] == 2
    assert answer["device"]["budget_bytes"] == 160 * MIB
    assert answer["global_batch_size"] == 2 * answer["batch_size"]
    assert answer["limited_by"]["kind"] == "memory"
    assert answer["base_batch_size"] == 32
    expected = 0.01 * (answer["global_batch_size"] / 32) ** 0.5
    assert answer["learning_rate"] == pytest.approx(expected)


@pytest.mark.parametrize(("setup", "count"), [("mirrored", 2), ("two on one", 1)])
def test_a_scripts_own_strategy_is_understood(
    emulated_gpu: Callable, monkeypatch: pytest.MonkeyPatch, setup: str, count: int
) -> None:
    emulated_gpu(256, count)
    monkeypatch.setenv("SETUP", setup)
    code, answer = probe(WIDE, "--max=24", *ROUGHLY)
    assert code == 0, answer
    assert (answer["batch_size"], answer["global_batch_size"]) == (24, 48)
    assert answer["base_batch_size"] == 64  # what fit was given: the global one
    assert answer["steps_per_epoch"] == -(-8192 // 48)
    assert answer["device"]["budget_bytes"] == (256 if setup == "mirrored" else 96) * MIB


def test_the_callback_understands_a_model_under_a_strategy(emulated_gpu: Callable) -> None:
    emulated_gpu("160,256", 2)
    script = str(HERE / "samples" / "callback_mirrored.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["replicas"] == 2
    assert said["kind"] == "this_process"
    assert said["limit"] == 160 * MIB
    assert said["whole"] == 2 * said["size"]
    assert said["steps"] == -(-8192 // said["whole"])  # what fit trained with


def test_a_strategy_that_keras_cannot_train_under_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SETUP", "multi worker")
    code, answer = probe(WIDE, "--device=cpu", "--memory-limit=256MiB")
    assert code == 4
    assert "MultiWorkerMirroredStrategy" in answer["error"]["message"]
    assert "tf.distribute.MirroredStrategy: use that" in answer["error"]["message"]


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(emulated_gpu: Callable) -> None:
    emulated_gpu(256, 2)
    code, answer = probe(FUNCTION, "--device=gpu:2")
    assert code == 5
    assert "gpu:0 to gpu:1" in answer["error"]["message"]


def test_without_a_gpu_the_refusal_is_one_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("TF_PLUGGABLE")]:
        monkeypatch.delenv(name)
    code, answer = probe(FUNCTION, "--device=gpu:0")
    assert code == 5
    assert "TensorFlow sees no GPU here" in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]
