"""Reports: what they show, that they fit, that nothing in them steers a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from autobatch.errors import (
    AutobatchError,
    ModelError,
    NothingFitsError,
    ProbeInterrupted,
    UsageError,
)
from autobatch.events import LogText, Notice, Prepared, TrialEnded, TrialStarted, WorkerStage
from autobatch.records import (
    Device,
    LearningRate,
    LimitedBy,
    LimitKind,
    Outcome,
    ProbeResult,
    Proof,
    ProofKind,
    Trial,
)
from autobatch.report.live import LiveView
from autobatch.report.summary import failure, summary
from autobatch.report.text import (
    format_call,
    format_elapsed,
    format_seconds,
    one_line,
    strip_controls,
    to_ascii,
)
from autobatch.units import MIB

ROOT = Path(__file__).resolve().parent.parent
EVIL = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m[bold red]name[/] \x1b]8;;http://x\x1b\\\rlink\nnext\x00\u202e"
)
WIDTHS = (40, 45, 60, 72, 80, 120, 200)


def trial(batch_size: int, outcome: Outcome = Outcome.FITS, peak: int = 0, **rest) -> Trial:
    peak_bytes = peak * MIB or None
    steps = (6.0, 0.1, 0.1) if peak else ()
    return Trial(
        batch_size=batch_size, outcome=outcome, peak_bytes=peak_bytes, step_seconds=steps, **rest
    )


TRIALS = (
    trial(8, peak=101),
    trial(32, peak=270),
    trial(50, peak=500),
    trial(60, peak=530),
    trial(49, Outcome.OUT_OF_MEMORY, proof=True, phase="step", why="OOM at shape[49,8,128]"),
    trial(48, peak=385, proof=True),
)
DEVICE = Device(name="CPU, emulated", kind="cpu", limit_bytes=4096 * MIB, budget_bytes=512 * MIB)
RATE = LearningRate(
    rule="sqrt",
    reason="AdamW normalises by the gradient's second moment.",
    factor=1.5**0.5,
    base_batch_size=32,
    batch_size=48,
    base_learning_rate=0.001,
    learning_rate=0.001 * 1.5**0.5,
    hyperparameters={"beta_1": 0.85},
    advice=("Warm up over 5 % of the steps.",),
)
RESULT = ProbeResult(
    batch_size=48,
    global_batch_size=48,
    learning_rate=RATE.learning_rate,
    learning_rate_rule="sqrt",
    learning_rates=(RATE,),
    base_batch_size=32,
    base_learning_rate=0.001,
    limited_by=LimitedBy(LimitKind.MEMORY, "50 would peak at 500 MiB of 486 MiB"),
    device=DEVICE,
    peak_bytes=385 * MIB,
    headroom_bytes=26 * MIB,
    samples_per_second=143.2,
    steps_per_epoch=84,
    proof=Proof(
        kind=ProofKind.FRESH_PROCESS,
        steps=8,
        validation_steps=1,
        last_batch_size=16,
        peak_bytes=(380 * MIB, 384 * MIB),
    ),
    trials=TRIALS,
    warnings=("The loss became NaN in step 3.",),
    seconds=23.4,
    versions={"autobatch": "0.1.0", "keras": "3.15.1"},
)


def changed(**fields) -> ProbeResult:
    return msgspec.structs.replace(RESULT, **fields)


def flat(text: str) -> str:
    return " ".join(text.split())


def assert_page(text: str, width: int, *, ascii_only: bool = False) -> None:
    assert text.endswith("\n")
    for line in text.splitlines():
        assert cell_len(line) <= width, line
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    if ascii_only:
        assert text.isascii()


# The summary


def test_summary_shows_everything():
    text = flat(summary(RESULT, width=80, color=False, command="autobatch run train.py"))
    for part in (
        "8 fits 101 MiB",
        "100 ms 480",  # a step, and samples a second
        "50 too close 500 MiB",  # it ran, but in the headroom
        "60 over budget 530 MiB",  # it ran with more memory than the budget
        "49 proof failed - - - out of memory during step: OOM at shape[49,8,128]",
        "48 proof passed 385 MiB",
        "CPU, emulated, budget 512 MiB (the search's trials could use 4 GiB)",
        "█ peak 385 MiB ▒ headroom 26 MiB ░ free 101 MiB",
        "BATCH SIZE 48 LEARNING RATE 0.00122474",
        "the device's memory: 50 would peak at 500 MiB of 486 MiB",
        "0.00122474 = 0.001 × 1.225 (sqrt rule, batch 32 to 48)",
        "AdamW normalises by the gradient's second moment.",
        "the rule's companions: beta_1 0.85",
        "• Warm up over 5 % of the steps.",
        "passed in a fresh process: 8 steps at 48, 1 validation step, a last batch of 16; "
        "peak 384 MiB",
        "143 samples a second, 84 optimizer steps an epoch",
        "Warning: The loss became NaN in step 3.",
        "batch_size=48 learning_rate=0.00122474",
        "Or type autobatch run train.py",
        "6 trials in 23 s, autobatch 0.1.0, keras 3.15.1",
    ):
        assert part in re.sub(r"[█▏▎▍▌▋▊▉▶]+ (?=\d)", "", text), part


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("unicode", [True, False])
def test_summary_fits_its_width_in_plain_letters(width, unicode):
    text = summary(RESULT, width=width, color=False, unicode=unicode, command="x" * 90)
    assert_page(text, width, ascii_only=not unicode)
    for part in ("proof passed", "385 MiB", "100 ms", "BATCH SIZE  48", "learning_rate=0.00122474"):
        assert part in text


@pytest.mark.parametrize("width", WIDTHS)
def test_colors_change_nothing_but_the_colors(width):
    colored = summary(RESULT, width=width, color=True)
    assert "\x1b[1;32m48\x1b[0m" in colored
    unstyled = [line.rstrip() for line in strip_controls(colored).splitlines()]
    assert unstyled == summary(RESULT, width=width, color=False).splitlines()


def test_the_environment_does_not_color(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in summary(RESULT, width=80, color=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" in summary(RESULT, width=80, color=True)  # the caller decides


@pytest.mark.parametrize("kind", list(LimitKind))
def test_summary_says_what_limited_it(kind):
    text = summary(changed(limited_by=LimitedBy(kind, "the evidence")), width=100, color=False)
    assert re.search(r"Limited by +\w.*: the evidence", text)


@pytest.mark.parametrize("kind", list(ProofKind))
def test_summary_says_where_it_was_proven(kind):
    text = summary(changed(proof=Proof(kind=kind, steps=1)), width=100, color=False)
    assert re.search(r"passed (in|by) [\w ',]+: 1 step at 48\n", text)


def test_summary_says_with_what_the_proof_began():
    proof = Proof(kind=ProofKind.FRESH_PROCESS, steps=8, beyond_batch_size=49)
    text = summary(changed(proof=proof), width=100, color=False)
    assert "passed in a fresh process: 8 steps at 49 (2% more), 8 steps at 48\n" in text


@pytest.mark.parametrize("outcome", [kind for kind in Outcome if kind is not Outcome.FITS])
def test_summary_names_every_outcome_and_its_reason(outcome):
    bad = trial(64, outcome, why="said so")
    text = summary(changed(trials=(bad, *TRIALS)), width=80, color=False)
    assert "said so" in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["64"])
    assert outcome.value.replace("_", " ").replace("host out of memory", "host memory") in row


def test_summary_without_a_learning_rate_data_or_peaks():
    bare = changed(
        learning_rate=None,
        learning_rates=(),
        steps_per_epoch=None,
        samples_per_second=None,
        peak_bytes=None,
        warnings=(),
        versions={},
        proof=Proof(kind=ProofKind.CALLER, steps=3),
        trials=(trial(48, proof=True),),
    )
    text = summary(bare, width=40, color=False)
    assert_page(text, 40)
    assert "LEARNING RATE" not in text
    assert "learning_rate=" not in text
    assert "no rate that is known" in flat(text)
    assert "passed by the caller's own step: 3 steps at 48" in flat(text)


def test_summary_of_several_optimizers_and_schedules_and_replicas():
    schedule = {
        "class_name": "PiecewiseConstantDecay",
        "config": {"boundaries": [100, 200], "values": [0.1, 0.01, 0.001], "name": None},
    }
    several = changed(
        global_batch_size=192,
        learning_rates=(
            msgspec.structs.replace(RATE, optimizer="d_optimizer", factor=1, rule="none"),
            msgspec.structs.replace(RATE, optimizer="g_optimizer", schedule=schedule),
        ),
    )
    text = flat(summary(several, width=80, color=False))
    assert "d_optimizer: 0.00122474, unchanged (none rule" in text
    assert "g_optimizer: 0.00122474 = 0.001 × 1.225" in text
    call = "PiecewiseConstantDecay(boundaries=[100, 200], values=[0.1, 0.01, 0.001])"
    assert f"the schedule, scaled: {call}" in text
    assert f"learning_rate={call} # of g_optimizer" in text
    assert "on each of 4 replicas, 192 in all" in text
    assert "batch_size=192" in text


def test_summary_says_when_the_headroom_is_not_met():
    text = summary(changed(peak_bytes=500 * MIB), width=80, color=False)
    assert "headroom 12 MiB" in text
    assert "less headroom than the 26 MiB asked for" in text
    assert_page(summary(changed(peak_bytes=600 * MIB), width=40, color=False), 40)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("unicode", [True, False])
def test_user_text_cannot_steer_the_terminal(width, unicode):
    wide = "漢字" * 60 + "e\u0301" * 5
    evil = changed(
        limited_by=LimitedBy(LimitKind.CRASH, EVIL),
        device=msgspec.structs.replace(DEVICE, name=EVIL + wide),
        warnings=(EVIL, wide),
        trials=(*TRIALS, trial(10**9, Outcome.FAILED, why=EVIL * 20, phase=EVIL)),
        learning_rates=(msgspec.structs.replace(RATE, reason=EVIL, optimizer=EVIL),),
        versions={EVIL: EVIL},
    )
    text = summary(evil, width=width, color=False, unicode=unicode, command=EVIL)
    assert_page(text, width, ascii_only=not unicode)
    assert "[bold red]name[/]" in flat(text) or width < 60
    assert "owned" not in text
    assert "\u202e" not in text


# Failures


def test_failure_of_the_model_shows_its_own_files_or_all_of_it():
    error = ModelError(
        "The model's first step failed: ValueError. Mend build_model().",
        details='File "model.py", line 3, in build_model\n    return keras.layer()',
        traceback="Traceback\n  File 'keras/engine.py'\n  File 'model.py'",
        trials=(trial(8, Outcome.FAILED, why="ValueError"),),
    )
    brief = failure(error, width=80, color=False, verbose=False)
    assert brief.startswith("The model failed: The model's first step failed")
    assert '  File "model.py", line 3, in build_model\n      return keras.layer()\n' in brief
    assert "keras/engine.py" not in brief
    assert "--verbose" in brief
    assert re.search(r"Tried before\n.*\n +8 +failed", brief)
    whole = failure(error, width=80, color=False, verbose=True)
    assert "    File 'keras/engine.py'" in whole
    assert "--verbose" not in whole


def test_failure_says_how_much_was_needed():
    error = NothingFitsError(
        "Even batch 1 does not fit.", needed_bytes=812 * MIB, budget_bytes=512 * MIB
    )
    text = failure(error, width=80, color=False, verbose=False)
    assert "Nothing fits: Even batch 1 does not fit." in text
    assert "needed 812 MiB of 512 MiB" in text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("kind", [AutobatchError, UsageError, ModelError, ProbeInterrupted])
def test_failures_fit_and_cannot_steer_the_terminal(kind, width, unicode):
    error = kind(EVIL * 5, details=f"{EVIL}\n\tx = {'√' * 300}", trials=TRIALS)
    text = failure(error, width=width, color=False, verbose=True, unicode=unicode)
    assert_page(text, width, ascii_only=not unicode)
    colored = failure(error, width=width, color=True, verbose=True, unicode=unicode)
    unstyled = [line.rstrip() for line in strip_controls(colored).splitlines()]
    assert unstyled == text.splitlines()


# Strings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x9d0;t\x9cc", "abc"),
        ("\x1bP1$r\x1b\\a\x1b_app\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        ("\x1b(Ba\x1b=b\x1b7c\x1bMd\x1bce", "abcde"),
        ("\x1b]0;no end\nnext", "0;no end\nnext"),
        ("\x1b\x1b[0m[31mx", "[31mx"),
        ("one\r\ntwo\rTWO!\n", "one\nTWO!\n"),
        (" 1/8 [=>..]\r 8/8 [====]\n", " 8/8 [====]\n"),
        ("12%\b\b\b99%", "99%"),
        ("long line\rshort", "shortline"),
        ("\b\b\ra", "a"),
        ("a\tb\vc\u2028d\x00e\x7f", "a\tb\nc\nde"),
        ("bad \udce4 \u202etxt", "bad  txt"),
        ("√ √β₁ ≤", "√ √β₁ ≤"),
    ],
)
def test_strip_controls(text, shown):
    assert strip_controls(text) == shown


PIECES = st.sampled_from(
    ["\x1b", "[", "]", "0;", "\x07", "\\", "\x9b", "\x9c", "\x9d", "\r", "\n", "\b", "m", "P", "漢"]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_strip_controls_leaves_nothing_that_steers(text):
    shown = strip_controls(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert strip_controls(shown) == shown
    shown.encode()
    assert to_ascii(shown).isascii()
    assert "\n" not in one_line(text)
    assert shown.count("\n") >= text.count("\n") - text.count("\x1b")


@given(st.text(alphabet=st.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_strip_controls_leaves_harmless_text_alone(text):
    assert strip_controls(text) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0001, "< 1 ms"), (0.021, "21 ms"), (0.9996, "1.00 s"), (9.996, "10 s"), (59.6, "1m 00s"),
        (185, "3m 05s"), (3600, "1h 00m"), (90061, "25h 01m"),
    ],
)  # fmt: skip
def test_durations(seconds, words):
    assert format_seconds(seconds) == words


def test_clock_and_calls():
    assert [format_elapsed(s) for s in (-1, 7.9, 61, 3723)] == ["0:00", "0:07", "1:01", "1:02:03"]
    inner = {"class_name": "Inner", "config": {"rate": 0.5}}
    assert format_call({"class_name": "Outer", "config": {"inner": inner, "n": None}}) == (
        "Outer(inner=Inner(rate=0.5))"
    )
    assert format_call({"class_name": "Odd"}) == "Odd()"


# The live view

EVENTS = [
    WorkerStage("search", "starting"),
    WorkerStage("search", "importing"),
    Prepared("Net [red]x[/red]\x1b[2J", DEVICE, 4000, 1.2),
    LogText("search", "1/8\r8/8\n\x1b[31mhalf a"),
    LogText("search", " line\n"),
    Notice("The data \x1b[5mlies there."),
    TrialStarted(8, False),
    WorkerStage("search", "tracing", 0, 0, 8),
    TrialEnded(TRIALS[0], 8, None, None),
    TrialStarted(32, False),
    TrialEnded(TRIALS[1], 32, None, 47),
    TrialStarted(60, False),
    TrialEnded(TRIALS[3], 32, 60, 47),
    TrialStarted(49, True),
    TrialEnded(TRIALS[4], 32, 49, 47),
    TrialStarted(48, True),
    WorkerStage("search", "starting"),  # another worker's: not what to show
    WorkerStage("proof", "step", 3, 8, 48),
]


LOG = "8/8\nhalf a line\nnote: The data lies there.\n"


@dataclass
class Screen:
    """As much of a terminal as the view needs; anything else fails the test."""

    columns: int
    rows: int
    lines: list[list[str]] = field(default_factory=lambda: [[]])
    x: int = 0
    y: int = 0
    cursor_visible: bool = True

    def feed(self, text: str) -> Screen:
        for token in re.findall(r"\x1b\[[0-?]*[@-~]|[^\x1b]|\x1b", text):
            self._take(token)
        return self

    def _take(self, token: str) -> None:
        if token == "\r":
            self.x = 0
        elif token == "\n":
            self.x, self.y = 0, self.y + 1  # as terminals are set up: with a carriage return
            self.lines += [[] for _ in range(self.y + 1 - len(self.lines))]
        elif token in ("\x1b[?25l", "\x1b[?25h"):
            self.cursor_visible = token.endswith("h")
        elif token == "\x1b[2K":
            self.lines[self.y] = []
        elif token == "\x1b[K":
            del self.lines[self.y][self.x :]
        elif token == "\x1b[J":
            del self.lines[self.y][self.x :]
            del self.lines[self.y + 1 :]
        elif up := re.fullmatch(r"\x1b\[(\d+)A", token):
            self.y -= int(up[1])
            assert self.y >= max(0, len(self.lines) - self.rows), "above the screen"
        elif not re.fullmatch(r"\x1b\[[\d;]*m", token):
            assert token.isprintable(), token
            assert self.x < self.columns, "the terminal would wrap"
            row = self.lines[self.y]
            row += " " * (self.x - len(row))
            row[self.x : self.x + 1] = token
            self.x += 1

    @property
    def shown(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.lines).rstrip("\n") + "\n"


class Terminal(io.StringIO):
    """Keeps what was written; may break."""

    encoding = "utf-8"

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.error is not None and self.writes > 2:
            raise self.error
        return super().write(text)


def live(stream, columns=80, rows=24, **options) -> LiveView:
    options = {"mode": "live", "color": True, "clock": lambda: 0.0} | options
    return LiveView(stream, size=lambda: (columns, rows), **options)


def last_frame(columns: int, rows: int, **options) -> Screen:
    stream = Terminal()
    with live(stream, columns, rows, **options) as view:
        for event in EVENTS:
            view(event)
        view._paint()
        return Screen(columns, rows).feed(stream.getvalue())


def test_live_view_shows_where_the_probe_stands():
    screen = last_frame(80, 24, verbose=True)
    text = flat(screen.shown)
    for part in (
        "8/8 half a line note: The data lies there.",
        "Net [red]x[/red], 4,000 samples; 512 MiB on CPU, emulated",
        "8 fits 101 MiB",
        "60 over budget 530 MiB",
        "49 proof failed",
        "Learned 32 fits, 49 does not; about 47 expected",
        "To go if this proof passes, 48 is the answer",
        "proof of batch 48: step 3 of 8 0:00",
    ):
        assert part in text, part
    assert screen.cursor_visible
    assert text.count("Learned") == 1


@pytest.mark.parametrize("columns", [21, 30, 40, 45, 80, 200])
@pytest.mark.parametrize("rows", [2, 5, 8, 24])
def test_live_view_stays_within_the_terminal(columns, rows):
    screen = last_frame(columns, rows, unicode=False)
    assert screen.shown.count("proof of") == 1
    assert ("Learned" in screen.shown) is (rows > 2)
    assert ("Net" in screen.shown) is (rows > 2)
    assert screen.shown.isascii()


def test_live_view_shows_nothing_where_nothing_fits():
    stream = Terminal()
    with live(stream, columns=15) as view:
        view(EVENTS[0])
        view(EVENTS[-1])
    assert Screen(15, 24).feed(stream.getvalue()).shown.strip() == ""


def test_a_slow_prelude_is_told():
    assert "to load" not in summary(changed(load_seconds=1.2), width=80, color=False)
    shown = flat(summary(changed(load_seconds=74.0), width=80, color=False))
    assert "6 trials in 23 s, 1m 14s to load in each process, autobatch" in shown


def test_a_size_that_the_search_took_for_too_large_does_not_read_as_one_that_fits():
    stream = Terminal()
    with live(stream, mode="plain") as view:
        view(Prepared("Net", DEVICE, 4000, 1.2))
        view(TrialEnded(trial(50, peak=500), 32, 50, 47))
        view(TrialEnded(trial(46, peak=490), 32, 46, 45))
    assert "batch 50: too close, peak 500 MiB" in stream.getvalue()
    assert "batch 46: too close, peak 490 MiB" in stream.getvalue()
    stream = Terminal()
    with live(stream) as view:
        view(Prepared("Net", DEVICE, 4000, 1.2))
        view(TrialEnded(trial(50, peak=500), 32, 50, 47))
        view(TrialEnded(trial(32, peak=270), 32, 50, 47))
        view._paint()
        shown = Screen(80, 24).feed(stream.getvalue()).shown
    assert re.search(r"50  too close +500 MiB", shown)
    assert re.search(r"32  fits +270 MiB", shown)


def test_a_loop_of_the_scripts_own_is_told_while_it_runs():
    stream = Terminal()
    with live(stream, mode="plain") as view:
        view(WorkerStage("search", "own_loop"))
    assert stream.getvalue().endswith("search: waiting for model.fit, a loop of its own trains\n")


def test_a_low_terminal_shows_the_last_trials():
    shown = last_frame(60, 8).shown
    assert "… 3 before" in shown
    assert "49  proof failed" in shown
    assert "32  fits" not in shown


@pytest.mark.parametrize("error", [None, RuntimeError("boom"), KeyboardInterrupt()])
def test_live_view_leaves_nothing_behind(error):
    stream = Terminal()

    def run():
        with live(stream, verbose=True) as view:
            for event in EVENTS:
                view(event)
            view(LogText("proof", "last words"))
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            run()
    else:
        run()
    screen = Screen(80, 24).feed(stream.getvalue())
    assert screen.shown == f"{LOG}last words\n"
    assert (screen.x, screen.cursor_visible) == (0, True)


def test_every_write_leaves_the_cursor_visible():
    """Whatever kills the process between two writes, the terminal stays usable."""
    stream = Terminal()
    frames = []
    stream.write = frames.append
    with live(stream) as view:
        for event in EVENTS:
            view(event)
    assert len(frames) > 5
    for frame in frames:
        assert frame.rfind("\x1b[?25h") >= frame.rfind("\x1b[?25l")


def test_the_clock_ticks_without_events():
    now = [0.0]
    stream = Terminal()
    with live(stream, clock=lambda: now[0]) as view:
        view(TrialStarted(8, False))
        now[0] = 75.0
        deadline = time.monotonic() + 10
        while "1:15" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert re.search(r"trial batch 8: starting, 1:15 +.*1:15", stream.getvalue())


@pytest.mark.parametrize("mode", ["live", "plain"])
@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed"), OSError(28, "full")])
def test_a_broken_stream_silences_the_view_only(mode, error):
    stream = Terminal(error)
    with live(stream, mode=mode, verbose=True) as view:
        for event in EVENTS * 2:
            view(event)
    assert stream.writes == 3


def test_a_closed_file_and_a_closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    for stream in (os.fdopen(writing, "w", buffering=1), io.StringIO()):
        if isinstance(stream, io.StringIO):
            stream.close()
        with LiveView(stream, mode="plain", color=False, verbose=True) as view:
            for event in EVENTS:
                view(event)
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def test_plain_view_writes_lines():
    stream = Terminal()
    with live(stream, mode="plain", verbose=True) as view:
        for event in EVENTS:
            view(event)
        view(LogText("proof", "last words"))
    assert stream.getvalue().splitlines() == [
        "[ 0:00] search: starting a process",
        "[ 0:00] Net [red]x[/red], 4,000 samples; 512 MiB on CPU, emulated (loaded in 1.20 s)",
        "8/8",
        "half a line",
        "[ 0:00] note: The data lies there.",
        "[ 0:00] batch 8: fits, peak 101 MiB, 100 ms a step; 8 fits, no limit met yet",
        "[ 0:00] batch 32: fits, peak 270 MiB, 100 ms a step; 32 fits, no limit met yet; "
        "about 47 expected",
        "[ 0:00] batch 60: over budget, peak 530 MiB, 100 ms a step; 32 fits, 60 does not; "
        "about 47 expected",
        "[ 0:00] proof of batch 49",
        "[ 0:00] batch 49: proof failed (out of memory during step: OOM at shape[49,8,128]); "
        "32 fits, 49 does not; about 47 expected",
        "[ 0:00] proof of batch 48",
        "[ 0:00] search: starting a process",
        "last words",
    ]


def test_quiet_view_writes_nothing_and_logs_only_show_when_verbose():
    stream = Terminal()
    with live(stream, mode="quiet", verbose=True) as view:
        for event in EVENTS:
            view(event)
    assert stream.writes == 0
    with live(stream, mode="plain") as view:
        for event in EVENTS:
            view(event)
    assert "half" not in stream.getvalue()


def test_an_ascii_stream_gets_ascii():
    raw = io.BytesIO()
    with LiveView(io.TextIOWrapper(raw, "ascii"), mode="plain", color=False) as view:
        view(Notice("β₁ grows with √k, 漢"))
    assert raw.getvalue() == b"[ 0:00] note: beta1 grows with sqrtk, ?\n"


def test_a_log_without_line_breaks_is_not_hoarded():
    stream = Terminal()
    with live(stream, mode="plain", verbose=True) as view:
        for _ in range(100):
            view(LogText("search", "x" * 1000))
        assert len(stream.getvalue()) > 90_000


# In real terminals

SCRIPT = textwrap.dedent("""
    import sys, time
    sys.path[:0] = [{root!r}, {tests!r}]
    from autobatch.report.live import LiveView
    from test_report import EVENTS
    with LiveView(sys.stderr, mode="live", color=True, verbose=True) as view:
        for event in EVENTS:
            view(event)
            time.sleep(0.05)
        {then}
    print("the answer", file=sys.stderr)
""")


def script(then: str) -> list[str]:
    source = SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"), then=then)
    return [sys.executable, "-c", source]


def on_a_pty(then: str, *, columns: int, until: str = "", send: int = 0) -> Screen:
    """What a process leaves on a terminal; `send` is a signal for when `until` is on it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(script(then), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
            if send and until.encode() in output:
                process.send_signal(send)
                send = 0
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return Screen(columns, 24).feed(output.decode())


@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_pty(columns):
    assert on_a_pty("", columns=columns).shown == f"{LOG}the answer\n"


def test_an_interrupt_and_a_kill_on_a_pty():
    wait = "time.sleep(60)"
    interrupted = on_a_pty(wait, columns=80, until="step 3 of 8", send=signal.SIGINT)
    assert interrupted.cursor_visible
    assert interrupted.shown.startswith(f"{LOG}Traceback")
    killed = on_a_pty(wait, columns=80, until="step 3 of 8", send=signal.SIGKILL)
    assert killed.cursor_visible
    assert "step 3 of 8" in killed.shown


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_terminal_that_is_resized(tmp_path):
    socket = str(tmp_path / "tmux")

    def tmux(*arguments: str) -> str:
        command = ["tmux", "-u", "-f", "/dev/null", "-S", socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def wait_for(text: str) -> str:
        deadline = time.monotonic() + 30
        while text not in (shown := tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)
        time.sleep(0.5)  # some frames more
        return tmux("capture-pane", "-p", "-S", "-")  # what scrolled away included

    go = tmp_path / "go"
    runner = tmp_path / "runner.py"
    source = script(f"import os\n    while not os.path.exists({str(go)!r}): time.sleep(0.05)")[2]
    before = [f"line {number}" for number in range(60)]
    runner.write_text(f"print({chr(10).join(before)!r}, flush=True)\n{source}\ntime.sleep(60)\n")
    command = f"PYTHONUTF8=1 {sys.executable} {runner}"
    tmux("new-session", "-d", "-x", "100", "-y", "30", command)
    try:
        wait_for("step 3 of 8")
        for width in (45, 60, 40, 100):
            tmux("resize-window", "-x", str(width), "-y", "30")
            shown = wait_for("step 3 of 8")
            assert [shown.count(word) for word in ("Learned", "To go", "outcome", "Net")] == [1] * 4
            assert max(map(len, shown.splitlines())) <= width
            assert shown.splitlines()[:60] == before
        go.touch()
        shown = wait_for("the answer")
        assert shown.rstrip() == "\n".join(before) + f"\n{LOG}the answer"
        assert tmux("display", "-p", "#{cursor_flag}").strip() == "1"
    finally:
        subprocess.run(["tmux", "-S", socket, "kill-server"], check=False, capture_output=True)
