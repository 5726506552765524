"""What a person with a GPU runs once, to see whether autobatch keeps its promises on that card.

    scripts/gpu-check                                    everything: some hours
    scripts/gpu-check --examples cifar10_cnn --fresh 3   less
    scripts/gpu-check --emulated 512                     on the emulated GPU, where there is none

Runs the tests marked `gpu`, probes each example with XLA on and off, memory growth on and off, in
float32 and mixed precision, trains afresh at each answer, and writes it all to a report file (JSON)
with the versions and the card. Exit 0: every fresh training went through, and every probe answered.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EXAMPLES = ("cifar10_cnn", "imdb_lstm", "transformer", "resnet50")
SWITCHES = ("xla", "growth", "mixed")
STEPS = 12


def run(command: list[str], environment: dict[str, str], timeout: float) -> tuple[int, str, str]:
    """Exit status, stdout and the end of stderr."""
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"no end within {timeout:g} s"
    return done.returncode, done.stdout, done.stderr[-4000:]


def check(example: str, switches: dict[str, bool], given: argparse.Namespace) -> dict:
    """One probe, and fresh trainings at its answer."""
    variant = {"example": str(HERE.parent / "examples" / f"{example}.py"), **switches}
    environment = {**given.environment, "VARIANT": json.dumps(variant)}
    path = str(HERE / "variant.py")
    command = [sys.executable, "-m", "autobatch", "probe", f"{path}:build_model", "--json"]
    command += ["--quiet", "--device", "gpu:0", *given.probe_arguments]
    started = time.perf_counter()
    status, said, log = run(command, environment, given.timeout)
    row = {"example": example, **switches, "exit": status}
    row["seconds"] = round(time.perf_counter() - started, 1)
    answer = json.loads(said) if said else {"error": {"message": log}}
    if status != 0:
        return row | {"error": answer["error"], "trials": answer.get("trials")}
    size = answer["batch_size"]
    row |= {"answer": answer, "batch_size": size, "fresh": []}
    for _ in range(given.fresh):
        script = str(HERE / "fresh_training.py")
        one = [sys.executable, script, path, str(size), str(STEPS)]
        status, _, log = run(one, environment, given.timeout)
        row["fresh"].append({"exit": status, **({"log": log[-1000:]} if status else {})})
    return row


def machine(environment: dict[str, str]) -> dict:
    """The card, the driver and the versions, as `autobatch devices` tells them."""
    _, said, log = run([sys.executable, "-m", "autobatch", "devices", "--json"], environment, 600)
    found = {"python": platform.python_version(), "platform": platform.platform()}
    return found | {"devices": json.loads(said) if said else log}


def main(given: argparse.Namespace) -> int:
    given.environment = dict(os.environ)
    if given.emulated:
        sys.path.insert(0, str(ROOT / "tests"))
        from emulated_gpu import build

        given.environment |= build.environment(given.emulated)
    report = {"machine": machine(given.environment), "rows": []}

    def save() -> None:
        given.report.write_text(json.dumps(report, indent=1) + "\n")

    save()
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
    status, said, _ = run(pytest, given.environment, given.timeout)
    report["tests"] = {"exit": status, "tail": said[-2000:]}  # 5: there was none to run
    bad = int(status not in (0, 5))
    chosen = [tuple(each.split("+")) if each != "plain" else () for each in given.variants or []]
    every = [
        tuple(name for name, on in zip(SWITCHES, values, strict=True) if on)
        for values in itertools.product((True, False), (False, True), (False, True))
    ]
    for example, on in itertools.product(given.examples, chosen or every):
        row = check(example, {name: name in on for name in SWITCHES}, given)
        deaths = sum(bool(each["exit"]) for each in row.get("fresh", ()))
        bad += deaths + (row["exit"] != 0)
        report["rows"].append(row)
        save()
        said = f"batch size {row['batch_size']}, {deaths} of {given.fresh} fresh trainings died"
        if row["exit"]:
            said = f"exit {row['exit']}: {row['error']['message'][:300]}"
        print(f"{example} {'+'.join(on) or 'plain'}: {said}", flush=True)
    print(f"The report is in {given.report}: please send it in.")
    return int(bad > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument(
        "--variants", nargs="+", help="such as xla+mixed, growth or plain; default: all eight"
    )
    parser.add_argument("--fresh", type=int, default=20, help="fresh trainings at each answer")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds of each process")
    parser.add_argument("--emulated", type=int, metavar="MIB", help="use the emulated GPU")
    parser.add_argument("--report", type=Path, default=Path("gpu-check.json").resolve())
    parser.add_argument("--probe-arguments", nargs=argparse.REMAINDER, default=[])
    sys.exit(main(parser.parse_args()))
