"""Fuzzing, led by coverage, of all that reads bytes of others. Needs `pip install atheris`.

    scripts/fuzz.py TARGET [SECONDS]     codec, journal, entry, diagnosis or text; 60 s

Only errors of ours may come out, and within a second. libFuzzer's report and the input that broke
it are left in the current folder. The tests do the same with Hypothesis, briefly.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import zlib
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["autobatch"]):
    from autobatch import journal, oom, protocol, records, result_cache, signature
    from autobatch.errors import StorageError, WorkerError
    from autobatch.records import Outcome, Trial
    from autobatch.report.text import strip_controls

from oom_cases import MEMORY, OTHER  # noqa: E402 - the tests' folder is on the path only now

KEY = signature.Key(
    model="m", data="d", device="x", budget_bytes=1, limit_bytes=2, environment="e",
    versions={"keras": "3"}, options={"minimum": "1"},
)  # fmt: skip
FIT = Trial(batch_size=4, outcome=Outcome.FITS, peak_bytes=1 << 20, proof=True)
ENTRY = result_cache.Entry(
    target="x", model="m", device="d", when=1.0, key=KEY, batch_size=4, trials=(FIT,)
)


def codec(data: bytes) -> None:
    """Each end's inbox: messages, or an error of ours, however the bytes are cut."""
    for expected in (protocol.Request, protocol.Answer):
        inbox = protocol.Inbox(expected)
        cut = data[0] if data else 0
        for piece in (data[1 : 1 + cut], data[1 + cut :]):
            inbox.feed(piece)
            with contextlib.suppress(WorkerError):
                while inbox.next() is not None:
                    pass


def checked(data: bytes) -> bytes:
    """Its lines with the check sums that they need: by chance none would ever have one."""
    return b"".join(b'["%08x",%s]\n' % (zlib.crc32(body), body) for body in data.split(b"\n"))


def read_journal(data: bytes) -> None:
    for each in (data, checked(data)):
        read = journal.parse(each)
        assert len(read.ends) == (0 if read.header is None else 1 + len(read.trials))
        assert bool(read.damage) == ((0, *read.ends)[-1] < len(each))


def entry(data: bytes) -> None:
    for each in (data, checked(data.replace(b"\n", b" "))):
        with contextlib.suppress(StorageError):
            found = result_cache.parse(each, Path("entry"))
            assert result_cache.parse(journal.line(found), Path("entry")) == found


def diagnosis(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    words = ["ResourceExhaustedError", "InternalError", "ValueError", "MemoryError", "RuntimeError"]
    found = oom.diagnose(
        oom.Evidence(
            exception_types=tuple(words[: provider.ConsumeIntInRange(0, 2)]),
            exit_status=provider.PickValueInList([None, 0, 1, 137, -6, -9, -11, 10**20]),
            device=provider.PickValueInList(["cpu", "gpu"]),
            device_free_bytes=provider.PickValueInList([None, 0, 1 << 40]),
            smaller_size_passed=provider.ConsumeBool(),
            host_oom_kills=provider.ConsumeIntInRange(0, 1),
            message=provider.ConsumeUnicode(400),
            causes=(((), provider.ConsumeUnicode(200)),),
            log=provider.ConsumeUnicode(100_000),
        )
    )
    assert isinstance(found.outcome, Outcome)
    assert found.why.isprintable()
    assert len(found.why) <= 300


def text(data: bytes) -> None:
    shown = strip_controls(data.decode("utf-8", "surrogateescape"))
    assert not set(shown) & set("\x00\x07\x08\x1b\x7f\x9b\u202e\u2066"), repr(shown)


TARGETS = {
    "codec": codec, "journal": read_journal, "entry": entry, "diagnosis": diagnosis, "text": text,
}  # fmt: skip


def seeds() -> list[bytes]:
    """Where the search begins: what is well formed, and real wordings."""
    stage = protocol.encode(protocol.Stage(stage="step", step=1, steps=2))
    trial = protocol.encode(protocol.RunTrial(batch_size=1, steps=2))
    header = journal.Header(target="x", key=KEY)
    lines = b"\n".join(records.encode(each) for each in (header, FIT, FIT))
    told = [each.message + each.log for _, each in {**MEMORY, **OTHER}.values()]
    return [
        b"\x00" + stage, b"\x09" + trial, lines, records.encode(ENTRY),
        *(f"\x00\x00{one}".encode() for one in told),
    ]  # fmt: skip


if __name__ == "__main__":
    name, *seconds = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={''.join(seconds) or 60}", "-timeout=1", "-max_len=20000"]
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name])
        atheris.Fuzz()
