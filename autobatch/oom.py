"""What killed this trial? From exception, log and exit status to an `Outcome` with its evidence.

Pure: it reads texts and numbers and decides. `oom_wordings` holds the wordings, `oom_texts` finds
them; here is who is believed, and in what order. An exception that answered is believed before the
log, because a log may tell of a failure that the program survived. A wording that can mean memory
or something else is weighed against the surroundings; where these say nothing, the answer is
"unknown".
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from autobatch import oom_texts
from autobatch.oom_texts import Finding, Voice, one_line
from autobatch.oom_wordings import EXCUSES, MAX_LINE, WRAPPERS, Says
from autobatch.records import Outcome

_LAST_LINES = 40  # a hint further up a log than this was survived
_DOUBTFUL = (Says.EITHER, Says.STATUS, Says.CHILD)
_WHOSE = {Outcome.OUT_OF_MEMORY: "the device's", Outcome.HOST_OUT_OF_MEMORY: "the host's"}
_CRASH_SIGNALS = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a dead trial.

    Attributes:
        exception_types: Class names along the exception's method resolution order.
        message: The exception's text.
        causes: Type names and text of each note, `__cause__` and `__context__`, nearest first.
        log: The end of what the worker wrote on stdout and stderr.
        exit_status: As `subprocess.Popen.returncode`; None where the worker lives or answered.
        phase: What the worker was doing.
        device: Kind of device: `gpu`, or `cpu` for the CPU behind TensorFlow's GPU allocator.
        device_free_bytes: Free on the device just before the end; None if unknown.
        device_limit_bytes: What the device's allocator could hand out; None if unknown.
        smaller_size_passed: A smaller batch size ran well in the same process or probe.
        host_oom_kills: Kills by the kernel's out-of-memory killer since the trial began.
    """

    exception_types: tuple[str, ...] = ()
    message: str = ""
    causes: tuple[tuple[tuple[str, ...], str], ...] = ()
    log: str = ""
    exit_status: int | None = None
    phase: str | None = None
    device: str = "gpu"
    device_free_bytes: int | None = None
    device_limit_bytes: int | None = None
    smaller_size_passed: bool = False
    host_oom_kills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """How a trial ended, and how that is known.

    Attributes:
        outcome: `out_of_memory`, `host_out_of_memory`, `crashed` or `failed`.
        why: The evidence that decided, in one printable line.
        certainty: `certain`, `likely` or `unknown`.
        allocation_bytes: Size of the allocation that failed; None if unknown.
        operation: The operation that asked for it; None if unknown.
        allocator: The allocator that refused; None if unknown.
    """

    outcome: Outcome
    why: str
    certainty: str
    allocation_bytes: int | None = None
    operation: str | None = None
    allocator: str | None = None

    @property
    def told(self) -> str:
        """The evidence for a reader, who is told where lack of memory is only likely."""
        whose = _WHOSE.get(self.outcome)
        if whose is None or self.certainty == "certain":
            return self.why
        return one_line(f"probably lack of {whose} memory: {self.why}")


def diagnose(evidence: Evidence) -> Diagnosis:
    """What killed the trial; takes any text and never raises."""
    log = oom_texts.hear_log(evidence.log, evidence.device)
    voices = _exceptions(evidence)
    return _from_exceptions(evidence, voices, log) if voices else _from_death(evidence, log)


def _from_exceptions(evidence: Evidence, voices: list[Voice], log: Voice) -> Diagnosis:
    main = voices[0]
    everything = [found for voice in voices for found in voice.findings]
    other = next((found for found in everything if found.says is Says.OTHER), None)
    doubts = [found for found in everything if found.says in _DOUBTFUL]
    for voice in voices:
        for found in voice.memory():
            sure = found.sure and (voice is main or other is None)
            return _memory(evidence, found, voice, log, sure=sure)
    if doubts and not other:
        return _weigh(evidence, doubts[0], main, log)
    if not other and any(WRAPPERS.intersection(voice.types) for voice in voices):
        last_lines = oom_texts.last_lines(log.text, _LAST_LINES)
        for found in reversed(log.memory()):
            if found.line in last_lines:
                return _memory(evidence, found, log, main, sure=False)
    why = other.line if other else main.headline()
    return Diagnosis(outcome=Outcome.FAILED, why=one_line(why), certainty="certain")


def _from_death(evidence: Evidence, log: Voice) -> Diagnosis:
    death, number = _describe_exit(evidence.exit_status)
    death += f" in phase {one_line(evidence.phase)}" if evidence.phase else ""
    if number == signal.SIGKILL and evidence.host_oom_kills > 0:
        why = f"{death}, and the kernel's out-of-memory killer struck in this control group"
        return Diagnosis(outcome=Outcome.HOST_OUT_OF_MEMORY, why=one_line(why), certainty="certain")
    for found in reversed(log.memory()):
        sure = found.sure and number != signal.SIGKILL
        return _memory(evidence, found, log, sure=sure, death=death)
    if evidence.host_oom_kills > 0:
        why = f"{death}, after the kernel's out-of-memory killer struck in this control group"
        return Diagnosis(outcome=Outcome.HOST_OUT_OF_MEMORY, why=one_line(why), certainty="likely")
    for found in log.findings:
        if found.says is Says.EITHER:
            return _weigh(evidence, found, log, log)
    last_lines = oom_texts.last_lines(log.text, _LAST_LINES)
    for found in reversed(log.findings):
        if found.hint and number in _CRASH_SIGNALS and found.line in last_lines:
            return _memory(evidence, found, log, sure=False, death=death)
    known = [found.line for found in log.findings if found.says is Says.OTHER]
    last = (known or last_lines or [""])[-1]
    return Diagnosis(
        outcome=Outcome.CRASHED,
        why=one_line(f"{death}: {last}" if last else death),
        certainty="likely" if known else "unknown",
    )


def _weigh(evidence: Evidence, doubt: Finding, voice: Voice, log: Voice) -> Diagnosis:
    """What a wording means that may be memory: the surroundings decide, the surest first."""
    lines = (line[:MAX_LINE] for line in log.text.split("\n"))
    excuse = next((line for line in lines if EXCUSES.search(line)), None)
    in_log = [found for found in log.findings if found.fatal_memory or found.hint]
    room = _room(evidence)
    says: Says | None = None
    if evidence.host_oom_kills > 0:
        says, reason = Says.HOST, "the kernel killed for lack of memory meanwhile"
    elif doubt.says is Says.CHILD:
        reason = "nothing tells why"
    elif excuse is not None:
        reason = f"the log explains it: {excuse.strip()[:120]}"
    elif in_log:
        says, reason = in_log[-1].says, f"the log says: {in_log[-1].line[:120]}"
    elif room == "ample":
        reason = "the device had ample memory left"
    elif room == "scarce":
        says, reason = Says.DEVICE, f"{evidence.device_free_bytes} bytes were free on the device"
    elif evidence.smaller_size_passed and doubt.says is Says.EITHER:
        says, reason = Says.DEVICE, "smaller batch sizes ran"
    else:
        reason = "it may be lack of memory, or something else"
    line = f"{doubt.line[:150]} ({reason})"
    if says is not None:
        return _memory(evidence, Finding(says, False, line), voice, log, sure=False)
    own = evidence.exit_status is None and (excuse is not None or doubt.says is Says.CHILD)
    return Diagnosis(
        outcome=Outcome.FAILED if own else Outcome.CRASHED,
        why=one_line(line),
        certainty="likely" if excuse is not None else "unknown",
    )


def _memory(
    evidence: Evidence, found: Finding, *voices: Voice, sure: bool, death: str = ""
) -> Diagnosis:
    texts = [found.line, *(voice.text for voice in voices)]
    on_device = found.says is Says.DEVICE
    return Diagnosis(
        outcome=Outcome.OUT_OF_MEMORY if on_device else Outcome.HOST_OUT_OF_MEMORY,
        why=one_line(f"{death}: {found.line}" if death and evidence.exit_status else found.line),
        certainty="certain" if sure else "likely",
        allocation_bytes=oom_texts.allocation_bytes(texts),
        operation=oom_texts.operation(texts),
        allocator=oom_texts.allocator(texts),
    )


def _exceptions(evidence: Evidence) -> list[Voice]:
    """The exception and its causes; where none was handed over, those of the log's traceback."""
    told = list(evidence.causes)
    if evidence.exception_types or evidence.message:
        told.insert(0, (evidence.exception_types, evidence.message))
    elif not told and (evidence.exit_status is None or 0 < evidence.exit_status < 128):
        told = [((), text) for text in oom_texts.exceptions_in(evidence.log)]
    return [oom_texts.hear_exception(types, text, evidence.device) for types, text in told]


def _room(evidence: Evidence) -> str | None:
    """Whether the device had `ample` or `scarce` memory left; None if unknown or in between."""
    free, limit = evidence.device_free_bytes, evidence.device_limit_bytes
    if free is None:
        return None
    if limit is None or limit <= 0:
        return "scarce" if free < 300 * 2**20 else "ample" if free > 4 * 2**30 else None
    return "scarce" if free * 10 < limit else "ample" if free * 2 > limit else None


def _describe_exit(status: int | None) -> tuple[str, int | None]:
    """An exit status in words, and the signal in it: shells report signal n as 128 + n."""
    if status is None:
        return "No answer", None
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name if number > 0 else None
    except ValueError:
        name = None
    if name is None:
        return f"Exit status {status}", None
    return f"Killed by {name}" if status < 0 else f"Exit status {status} ({name})", number
