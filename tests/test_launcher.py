"""Workers as real processes, with a tiny program in TensorFlow's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autobatch import worker_process
from autobatch.errors import WorkerError
from autobatch.launcher import Launcher, WorkerDied, WorkerTimedOut
from autobatch.protocol import DeviceRequest, Prepare, RunTrial, Stage, Target, TrialDone
from autobatch.worker_process import LOG_BYTES, Worker

HERE = Path(__file__).resolve().parent
BOOT = (
    "import sys; sys.path[:1] = []; sys.path += [{root!r}, " + repr(str(HERE)) + "]; "
    "import worker_sample as w; "
)
LONG = 30.0  # seconds that a busy machine may take; only a failing test waits that long

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc"),
    pytest.mark.timeout(120),
]

Start = Callable[..., Worker]


class Output:
    """What the workers wrote, by name."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    def __call__(self, worker: str, text: str) -> None:
        self.texts.setdefault(worker, []).append(text)

    def of(self, worker: str) -> str:
        return "".join(self.texts.get(worker, []))


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture
def workers(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch, output: Output
) -> Iterator[Launcher]:
    """A launcher whose workers do what `start` is told; nothing may be left of them."""
    monkeypatch.setattr(worker_process, "_BOOT", BOOT)
    with Launcher(output) as made:
        yield made
    assert not alive(made)


@pytest.fixture
def start(workers: Launcher) -> Start:
    def start(program: str, name: str = "search") -> Worker:
        environment = {**os.environ, "PROGRAM": textwrap.dedent(program)}
        return workers.start(name, environment)

    return start


def alive(made: Launcher) -> list[int]:
    return [w.process.pid for w in made._workers if w.process.poll() is None]


def soon() -> float:
    return time.monotonic() + LONG


def running(pid: int) -> bool:
    """Whether the process is there and not just a name that nobody has asked after."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def ends(pid: int) -> bool:
    """Whether the process ends soon."""
    deadline = soon()
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not running(pid)


def within_a_second(seconds: Callable[[], float]) -> bool:
    """Whether it can be done: a busy machine may take longer, and not each time."""
    return any(seconds() < 1 for _ in range(8))


def take(workers: Launcher, worker: Worker) -> str:
    """The next stage it says."""
    message = workers.receive(worker, soon())
    assert isinstance(message, Stage)
    return message.stage


# -- messages ------------------------------------------------------------------------------------


def test_requests_and_answers_go_to_and_fro_in_order(workers: Launcher, start: Start) -> None:
    worker = start(
        """
        while (request := channel.receive()) is not None:
            say("step")
            channel.send(protocol.TrialDone(step_peak_bytes=(request.batch_size,),
                step_seconds=(0.5,), other_peak_bytes=0, resident_bytes=request.steps))
        """
    )
    for size in (1, 16, 256):
        worker.send(RunTrial(batch_size=size, steps=size + 1))
        assert take(workers, worker) == "step"
        done = workers.receive(worker, soon())
        assert isinstance(done, TrialDone)
        assert done.step_peak_bytes == (size,)
        assert done.resident_bytes == size + 1
    assert workers.bury(worker, patience=LONG) == 0  # a closed channel ends it in its own time


def test_a_request_that_the_pipe_cannot_hold_goes_on_its_way_later(
    workers: Launcher, start: Start
) -> None:
    worker = start(
        """
        say("importing")
        time.sleep(0.3)
        say(len(channel.receive().target.pickle))
        """
    )
    target = Target(kind="pickle", pickle=bytes(3_000_000))
    began = time.monotonic()
    worker.send(Prepare(target=target, device=DeviceRequest(kind="cpu")))
    assert time.monotonic() - began < LONG  # it would not return at all if it waited for the worker
    assert take(workers, worker) == "importing"
    assert take(workers, worker) == "3000000"


def test_a_message_written_just_before_death_is_received(workers: Launcher, start: Start) -> None:
    for _ in range(5):
        worker = start("for n in range(200): say(n)\nos.kill(os.getpid(), signal.SIGKILL)")
        assert [take(workers, worker) for _ in range(200)] == [str(n) for n in range(200)]
        with pytest.raises(WorkerDied):
            workers.receive(worker, soon())
        workers.bury(worker)


def test_what_is_no_message_is_the_workers_error(workers: Launcher, start: Start) -> None:
    worker = start("os.write(write_fd, b'Traceback (most'); time.sleep(60)")
    with pytest.raises(WorkerError, match="corrupt"):
        workers.receive(worker, soon())


def test_nothing_of_the_parents_can_be_read_by_the_model(workers: Launcher, start: Start) -> None:
    worker = start("say(repr(sys.stdin.read()))")
    assert take(workers, worker) == "''"


# -- output --------------------------------------------------------------------------------------


def test_what_it_prints_is_kept_and_told_and_is_no_message(
    workers: Launcher, start: Start, output: Output
) -> None:
    worker = start(
        r"""
        print("to stdout", flush=True)
        print("to stderr: \u2603 and half of it:", file=sys.stderr, flush=True)
        os.write(2, b"\xe2\x98\n")
        say("step")
        channel.receive()
        """
    )
    assert take(workers, worker) == "step"
    with pytest.raises(WorkerTimedOut):
        workers.receive(worker, time.monotonic() + 0.05)
    expected = "to stdout\nto stderr: \u2603 and half of it:\n\N{REPLACEMENT CHARACTER}\n"
    assert worker.log == expected
    assert output.of("search") == expected
    worker.clear_log()
    assert worker.log == ""


def test_a_flood_of_output_blocks_neither_side(
    workers: Launcher, start: Start, output: Output
) -> None:
    worker = start(
        r"""
        block = (b"x" * 1023 + b"\n") * 1024
        for _ in range(100):
            os.write(1, block)
        os.write(2, b"the last words\n")
        say("step")
        channel.receive()
        """
    )
    assert take(workers, worker) == "step"
    with pytest.raises(WorkerTimedOut):
        workers.receive(worker, time.monotonic() + 0.05)
    assert len(worker.log) == LOG_BYTES
    assert worker.log.endswith("x\nthe last words\n")
    assert len(output.of("search")) == 100 * (1 << 20) + len("the last words\n")


def test_a_worker_that_prints_without_end_cannot_keep_the_parent(
    workers: Launcher, start: Start
) -> None:
    worker = start("say('step')\nwhile True: os.write(1, b'x' * 65536)")
    assert take(workers, worker) == "step"
    began = time.monotonic()
    with pytest.raises(WorkerTimedOut):
        workers.receive(worker, began + 0.3)
    assert time.monotonic() - began < LONG
    assert workers.bury(worker, patience=0.0) < 0


def test_one_look_at_the_output_takes_only_so_much(
    workers: Launcher, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start("channel.receive()")
    read, looks = os.read, 0

    def endless(fd: int, count: int) -> bytes:
        nonlocal looks
        if fd != worker.output:
            return read(fd, count)
        looks += 1
        assert looks < 1000
        return b"x" * count

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", endless)
        assert LOG_BYTES < len(worker.drain_output()) <= LOG_BYTES + (1 << 16)
    assert len(worker.log) == LOG_BYTES


def test_the_others_output_is_drained_too(workers: Launcher, start: Start, output: Output) -> None:
    """A standby that prints while it imports must not stand still until it is asked."""
    standby = start("os.write(1, b'y' * 1000000); say('importing'); channel.receive()", "proof")
    busy = start("time.sleep(0.3); say('step'); channel.receive()")
    assert take(workers, busy) == "step"
    assert take(workers, standby) == "importing"
    with pytest.raises(WorkerTimedOut):
        workers.receive(standby, time.monotonic() + 0.05)
    assert output.of("proof") == "y" * 1_000_000
    assert output.of("search") == ""


def test_the_last_words_of_the_dead_are_told_and_in_the_log(
    workers: Launcher, start: Start, output: Output
) -> None:
    worker = start("os.write(2, b'Check failed: bfc_allocator.cc\\n'); os._exit(134)")
    worker.process.wait()
    with pytest.raises(WorkerDied):
        workers.receive(worker, soon())
    assert output.of("search") == worker.log == "Check failed: bfc_allocator.cc\n"


# -- death ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_death_by_a_signal_tells_which(workers: Launcher, start: Start, sign: int) -> None:
    worker = start(
        f"""
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        say("step")
        os.kill(os.getpid(), {int(sign)})
        """
    )
    assert take(workers, worker) == "step"
    with pytest.raises(WorkerDied) as caught:
        workers.receive(worker, soon())
    assert caught.value.exit_status == -sign
    assert workers.bury(worker) == -sign


@pytest.mark.parametrize("status", [0, 1, 77])
def test_an_end_without_an_answer_is_a_death_too(
    workers: Launcher, start: Start, status: int
) -> None:
    worker = start(f"os._exit({status})")
    with pytest.raises(WorkerDied) as caught:
        workers.receive(worker, soon())
    assert caught.value.exit_status == status
    with pytest.raises(WorkerDied):  # and stays one
        workers.receive(worker, soon())


def test_a_request_to_the_dead_is_noticed_at_the_next_receive(
    workers: Launcher, start: Start
) -> None:
    worker = start("os._exit(3)")
    worker.process.wait()
    worker.send(RunTrial(batch_size=1, steps=1))
    with pytest.raises(WorkerDied):
        workers.receive(worker, soon())


def test_a_message_cut_off_by_death_is_a_death(workers: Launcher, start: Start) -> None:
    worker = start("os.write(write_fd, (100).to_bytes(4, 'big') + b'{'); os._exit(9)")
    with pytest.raises(WorkerDied):
        workers.receive(worker, soon())


def test_silence_times_out_and_the_worker_lives_on(workers: Launcher, start: Start) -> None:
    worker = start("say('step'); channel.receive(); say('later'); channel.receive()")
    assert take(workers, worker) == "step"
    began = time.monotonic()
    with pytest.raises(WorkerTimedOut):
        workers.receive(worker, began + 0.2)
    assert 0.2 <= time.monotonic() - began < LONG
    worker.send(RunTrial(batch_size=1, steps=1))
    assert take(workers, worker) == "later"


def test_a_message_that_is_there_is_received_even_after_the_deadline(
    workers: Launcher, start: Start
) -> None:
    worker = start("say('step'); channel.receive()")
    time.sleep(0.05)
    while not worker._inbox._buffer and worker.process.poll() is None:
        worker._inbox.feed(read_all(worker.answers))
    assert workers.receive(worker, time.monotonic() - 1) == Stage(stage="step")


def read_all(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        time.sleep(0.01)
        return b""


# -- burial --------------------------------------------------------------------------------------


def test_one_that_ignores_sigterm_is_killed(workers: Launcher, start: Start) -> None:
    worker = start("signal.signal(signal.SIGTERM, signal.SIG_IGN); say('step'); time.sleep(600)")
    assert take(workers, worker) == "step"
    began = time.monotonic()
    assert workers.bury(worker, patience=0.1) == -signal.SIGKILL
    assert time.monotonic() - began < LONG
    assert not running(worker.pid)


def test_one_that_does_not_watch_the_channel_gets_sigterm_first(
    workers: Launcher, start: Start
) -> None:
    worker = start("say('step'); time.sleep(600)")
    assert take(workers, worker) == "step"
    assert workers.bury(worker, patience=0.2) == -signal.SIGTERM


@pytest.mark.parametrize("how", ["bury", "leave", "died first"])
def test_the_whole_family_dies(workers: Launcher, start: Start, how: str) -> None:
    worker = start(
        """
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
        child.stdout.readline()
        say(child.pid)
        if channel.receive().batch_size == 1:
            os._exit(0)
        """
    )
    grandchild = int(take(workers, worker))
    assert running(grandchild)
    if how == "died first":
        worker.send(RunTrial(batch_size=1, steps=1))
        with pytest.raises(WorkerDied):
            workers.receive(worker, soon())
    if how == "leave":
        workers.__exit__(None)
    else:
        workers.bury(worker, patience=0.1)
    assert ends(grandchild)


ESCAPES = """
    import tempfile
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(600)"
    def escape(deaf):
        # A session of its own, nothing in the environment, and its parent is gone.
        fork = f"import os, sys; os.fork() and os._exit(0); os.setsid(); print(os.getpid()); {deaf}"
        child = subprocess.Popen([sys.executable, "-u", "-c", fork], stdout=subprocess.PIPE, env={})
        child.wait()
        pid = int(child.stdout.readline())
        child.stdout.readline()
        return pid
    tempfile.mkdtemp()
    say(f"{escape(deaf)} {escape(deaf)} {tempfile.mkstemp()[1]}")
"""
ENDS = {
    "bury": "channel.receive()",
    "deaf": "signal.signal(15, signal.SIG_IGN); time.sleep(600)",
    "died": "os.kill(os.getpid(), signal.SIGKILL)",
    "left": "os._exit(0)",
    "warden killed": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
@pytest.mark.parametrize("end", ENDS)
def test_nobody_and_nothing_escapes(workers: Launcher, start: Start, end: str) -> None:
    """Whatever way the worker ends: no descendant of any session is left, and no file."""
    if end == "warden killed":  # nobody adopts the orphans then; what they are marked by is left
        program = textwrap.dedent(ESCAPES).replace(", env={}", "")
    else:
        program = textwrap.dedent(ESCAPES)
    worker = start(f"{program}\n{ENDS[end]}")
    *escaped, file = take(workers, worker).split()
    folder = Path(file).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.iterdir())) == 2
    if end in ("died", "left", "warden killed"):
        with pytest.raises(WorkerDied):
            workers.receive(worker, soon())
    workers.bury(worker, patience=0.1)
    assert not folder.exists()
    assert worker.left == ()
    assert worker.pid is not None
    assert ends(worker.pid)
    for pid in map(int, escaped):
        assert ends(pid) if end == "warden killed" else not running(pid)


def test_a_child_is_asked_before_it_is_killed(
    workers: Launcher, start: Start, tmp_path: Path
) -> None:
    worker = start(
        f"""
        polite = "import signal, sys, time; signal.signal(15, lambda *_: (open({str(tmp_path)!r} "
        polite += "+ '/bye', 'w').close(), sys.exit())); print(); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", polite], stdout=subprocess.PIPE)
        child.stdout.readline()
        say("step")
        os._exit(0)
        """
    )
    assert take(workers, worker) == "step"
    workers.bury(worker)
    assert (tmp_path / "bye").exists()


def test_what_a_lock_is_held_by_is_held_by_the_warden_and_not_the_worker(
    workers: Launcher, start: Start, tmp_path: Path
) -> None:
    with open(tmp_path / "lock", "w") as lock:
        workers.held = (lock.fileno(),)
        worker = start(
            "say(' '.join(os.path.realpath(f'/proc/{p}/fd/{n}') for p in "
            "(os.getpid(), os.getppid()) for n in os.listdir(f'/proc/{p}/fd')))"
        )
        assert take(workers, worker).count(lock.name) == 1


def test_a_grandchild_that_holds_the_pipes_does_not_keep_the_parent(
    workers: Launcher, start: Start
) -> None:
    worker = start(
        """
        child = os.fork()  # has every pipe's end that its parent has
        if not child:
            time.sleep(600)
        say(child)
        os._exit(5)
        """
    )
    grandchild = int(take(workers, worker))
    began = time.monotonic()
    with pytest.raises(WorkerDied) as caught:
        workers.receive(worker, soon())
    assert caught.value.exit_status == 5
    workers.bury(worker)
    assert time.monotonic() - began < LONG
    assert ends(grandchild)


def test_leaving_ends_all_at_once_whatever_happened(workers: Launcher, start: Start) -> None:
    deaf = "signal.signal(15, signal.SIG_IGN); say('step'); time.sleep(600)"

    def seconds() -> float:
        made = [start(deaf, name) for name in ("search", "proof")]
        for worker in made:
            assert take(workers, worker) == "step"
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt), workers:
            raise KeyboardInterrupt
        assert not any(running(w.process.pid) for w in made)
        return time.monotonic() - began

    assert within_a_second(seconds)  # Ctrl-C answers


def test_a_worker_leads_a_session_of_its_own(workers: Launcher, start: Start) -> None:
    """So that Ctrl-C in the terminal reaches the parent alone."""
    worker = start("say(f'{os.getsid(0)} {os.getpgid(0)} {os.getpid()} {os.getppid()}')")
    session, group, pid, parent = map(int, take(workers, worker).split())
    assert session == group == pid == worker.pid
    assert parent == worker.process.pid  # its warden
    assert session != os.getsid(0)


def test_a_worker_sees_the_environment_it_was_given_alone(
    workers: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "1")
    program = "say(','.join(os.environ.get(n, '-') for n in ('OURS', 'THEIRS')))"
    worker = workers.start("search", {"PROGRAM": program, "THEIRS": "2"})
    assert take(workers, worker) == "-,2"


def test_the_pipes_of_one_are_not_open_in_another(workers: Launcher, start: Start) -> None:
    """Else the first one's channel would stay open when the parent closes it."""
    first = start("say('step'); channel.receive()")
    assert take(workers, first) == "step"
    second = start("say(len(os.listdir('/proc/self/fd'))); channel.receive()", "proof")
    # stdin, stdout, stderr, both ends of the channel, and the listing itself
    assert take(workers, second) == "6"
    assert workers.bury(first, patience=LONG) == 0


def test_an_executable_that_is_not_there_leaves_nothing(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Launcher(lambda *_: None) as made, pytest.raises(FileNotFoundError):
        made.start("search", {})


def test_descriptors_beyond_the_first_thousand_do(workers: Launcher, start: Start) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("may not open as many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    filled = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        worker = start("say(max(map(int, os.listdir('/proc/self/fd')))); time.sleep(600)")
        assert int(take(workers, worker)) > 1024
        assert workers.bury(worker, patience=0.1) == -signal.SIGTERM
    finally:
        for fd in filled:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_place_for_temporary_files_is_told(
    nothing_left_open: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with Launcher(lambda *_: None) as made, pytest.raises(WorkerError, match="Set TMPDIR"):
        made.start("search", {})


def test_pipes_keep_clear_of_the_standard_streams() -> None:
    """Where the caller closed them, their numbers are the next to be given out."""
    program = (
        "import os; os.close(0); os.close(1); from autobatch import worker_process as w; "
        "ends = w._pipe(); os.write(2, repr(min(ends) >= 3).encode())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE.parent, stderr=subprocess.PIPE, timeout=LONG
    )
    assert ran.stderr == b"True"


# -- when the parent dies ------------------------------------------------------------------------

PARENT = """
import os, sys, time
from autobatch import launcher, worker_process
worker_process._BOOT = {boot!r}
program = {program!r}
with launcher.Launcher(lambda *_: None) as made:
    worker = made.start("search", {{**os.environ, "PROGRAM": program}})
    print(made.receive(worker, time.monotonic() + 30).stage, worker.pid, flush=True)
    {then}
    time.sleep(600)
"""
# It holds the interpreter's lock for ever: no thread of the worker's and no handler ever runs.
C_LOOP = """
import collections, itertools
signal.signal(signal.SIGTERM, signal.SIG_IGN)
collections.deque(itertools.repeat(0), maxlen=0)
"""


def parent_of(program: str, then: str = "", **variables: str) -> subprocess.Popen[str]:
    """A process with a worker that runs `program`; it prints the stage and the worker's number."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT.format(boot=BOOT, program=program, then=then)],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
@pytest.mark.parametrize("then", ["", "made.start('proof', {**os.environ, 'PROGRAM': 'say(1)'})"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_all_die_with_the_parent_whatever_kills_it(
    nothing_left_open: None, sign: signal.Signals, then: str, tmp_path: Path
) -> None:
    program = textwrap.dedent(ESCAPES) + C_LOOP
    with parent_of(program, then, TMPDIR=str(tmp_path)) as parent:
        assert parent.stdout is not None
        *escaped, _, worker = parent.stdout.readline().split()
        family = [int(worker), *map(int, escaped)]
        assert all(map(running, family))
        parent.send_signal(sign)
        parent.wait(LONG)
    assert all(map(ends, family))
    deadline = soon()
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_the_worker_dies_within_a_second_of_its_parent(nothing_left_open: None) -> None:
    def seconds() -> float:
        with parent_of("say('step')" + C_LOOP) as parent:
            assert parent.stdout is not None
            worker = int(parent.stdout.readline().split()[1])
            began = time.monotonic()
            parent.kill()
            assert ends(worker)
        return time.monotonic() - began

    assert within_a_second(seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_the_warden_sees_its_parent_die_though_a_fork_keeps_the_socket(
    nothing_left_open: None,
) -> None:
    then = "child = os.fork(); child or time.sleep(600); print(child, flush=True)"
    with parent_of("say('step')" + C_LOOP, then) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline().split()[1])
        fork = int(parent.stdout.readline())
        parent.kill()
        parent.wait(LONG)
    try:
        assert ends(worker)
        assert running(fork)
    finally:
        os.kill(fork, signal.SIGKILL)
