"""What comes before `fit` against its bars: bit for bit, as fast, as safe as a probe.

    callback.py exact                       training with it, and hard-coded to its answer
    callback.py pipeline                    finder.batch against a plain batch, in alternating pairs
    callback.py search [CONFIGURATION ...]  searches in the process that trains, a probe beside each
    callback.py run                         `autobatch run`, and a copy of the script edited by hand

Rows go to rows/callback.jsonl.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from configurations import CONFIGURATIONS, EXAMPLES, ROWS, STEPS, Configuration

CALLBACK = ROWS / "callback.jsonl"
SAMPLES = Path(__file__).resolve().parent.parent.parent / "tests" / "samples"
PAIRS = 15
POLICIES = ("float32", "mixed_float16")


def write(row: dict) -> None:
    with CALLBACK.open("a") as file:
        print(json.dumps(row), file=file)
    print(json.dumps(row), flush=True)


def exact() -> None:
    """Bar 1: every difference over 50 steps."""
    runs = [
        (policy, isolation, resumed)
        for policy in POLICIES
        for isolation in ("process", "worker")
        for resumed in (False, "BackupAndRestore", "ModelCheckpoint")
    ]
    environment = next(iter(CONFIGURATIONS.values())).environment()
    done = subprocess.run(
        [sys.executable, "callback_exact.py", json.dumps(runs)],
        cwd=SAMPLES,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    for (policy, isolation, resumed), line in zip(runs, lines, strict=True):
        what = {"policy": policy, "isolation": isolation, "resumed": resumed}
        write({"bar": "exact", **what, **json.loads(line)})


def pipeline() -> None:
    """Bar 2: seconds of a whole pass, in pairs that take turns."""
    import numpy as np
    import tensorflow as tf

    import autobatch

    rng = np.random.default_rng(0)
    small = rng.random((1_000_000, 4), "float32"), np.arange(1_000_000)
    images = rng.random((20_000, 32, 32, 3), "float32"), rng.integers(0, 10, 20_000)
    for name, arrays, size in (("1 million small", small, 256), ("cifar", images, 256)):
        rows = tf.data.Dataset.from_tensor_slices(arrays)
        for kind, data in (("rows", rows), ("batches", rows.batch(32))):
            finder = autobatch.AutoBatch()
            finder._size.value = size  # as a search leaves it
            late = finder.batch(data)
            plain = (data if kind == "rows" else data.unbatch()).batch(size)
            if kind == "batches":
                plain = data.rebatch(size)
            plain = plain.prefetch(tf.data.AUTOTUNE)
            ratios = [seconds(late) / seconds(plain) for _ in range(PAIRS)]
            write(
                {
                    "bar": "pipeline",
                    "data": name,
                    "kind": kind,
                    "median_ratio": round(statistics.median(ratios), 3),
                    "ratios": [round(each, 3) for each in ratios],
                }
            )


def seconds(dataset: object) -> float:
    started = time.perf_counter()
    for _ in dataset:  # type: ignore[attr-defined]
        pass
    return time.perf_counter() - started


def search(names: list[str]) -> None:
    """Bar 3: each in a process of its own, beside the answer that a probe gives."""
    for name in names:
        configuration = CONFIGURATIONS[name]
        done = subprocess.run(
            [sys.executable, __file__, "here", name],
            env={**configuration.environment(), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        row = {"bar": "search", "configuration": name, "exit": done.returncode}
        if done.returncode == 0:
            row |= json.loads(done.stdout.splitlines()[-1])
            row["probed"] = probed(configuration)
            row["ratio"] = round(row["batch_size"] / row["probed"], 3)
        else:
            row["error"] = done.stderr[-300:]
        write(row)


def probed(configuration: Configuration) -> int:
    """What `autobatch probe` answers."""
    command = [sys.executable, "-m", "autobatch", "probe", f"{configuration.path}:build_model"]
    for name, value in configuration.options().items():
        command += [f"--{name.replace('_', '-')}", value]
    command += ["--json", "--quiet", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["batch_size"])


def here(name: str) -> None:
    """One search in this process, and some steps at its answer."""
    import autobatch

    path = EXAMPLES / f"{CONFIGURATIONS[name].example}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, finder = module.build_model(), autobatch.AutoBatch(isolation="process")
    data = finder.batch(module.build_dataset())
    model.fit(data, steps_per_epoch=STEPS, callbacks=[finder], verbose=0)
    result = finder.result
    assert result is not None
    outcomes = [str(each.outcome) for each in result.trials]
    row = {
        "batch_size": result.batch_size,
        "sizes": [each.batch_size for each in result.trials],
        "required_bytes": [each.required_bytes for each in result.trials],
        "out_of_memory": outcomes.count("out_of_memory"),
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
    }
    print(json.dumps(row))


def run() -> None:
    """Bar 4: the tutorial scripts, seeded, on fewer and shorter samples."""
    from test_run import EXAMPLES as TUTORIALS
    from test_run import by_hand, said, small_copy

    for example, samples in (("cifar10_cnn", 2048), ("imdb_lstm", 1024)):
        with tempfile.TemporaryDirectory() as folder:
            script = small_copy(example, Path(folder), samples=samples)
            command = [sys.executable, "-m", "autobatch", "run", "train.py", "--device=cpu"]
            command += ["--memory-limit=256MiB", "--no-cache"]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            [line] = said(ran.stderr)
            size = int(line.split("batch size ")[1].split()[0])
            by_hand(script, size)
            edited = subprocess.run(
                [sys.executable, "train.py"], cwd=folder, capture_output=True, text=True
            )
            ours, theirs = (json.loads(each.stdout) for each in (ran, edited))
            row = {"bar": "run", "script": f"{TUTORIALS.name}/{example}.py", "samples": samples}
            losses = [each[0]["loss"] for each in (ours, theirs)]
            write(
                row
                | {
                    "exit": ran.returncode,
                    "said": line,
                    "batch_size": size,
                    "losses": losses,
                    "equal": ours == theirs,  # metrics, weights, rate and steps too
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bar", choices=["exact", "pipeline", "search", "run", "here"])
    examples = [c.name for c in CONFIGURATIONS.values() if c.path.parent == EXAMPLES and not c.gpus]
    parser.add_argument("configurations", nargs="*", default=examples)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if given.bar == "search":
        search(given.configurations)
    elif given.bar == "here":
        here(given.configurations[0])
    else:
        {"exact": exact, "pipeline": pipeline, "run": run}[given.bar]()


if __name__ == "__main__":
    main()
