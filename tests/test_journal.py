"""The journal and the cache: nothing lost, nothing believed that is damaged. No TensorFlow."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from fake_device import Thresholds
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autobatch import batch_search, cli, journal, keeping, oom, protocol, result_cache, signature
from autobatch.batch_search import Done, GiveUp, Search
from autobatch.errors import StorageError, UsageError, WorkerError
from autobatch.events import Notice
from autobatch.evidence import Plan
from autobatch.journal import Header, Journal, line, parse
from autobatch.keeping import Keeper
from autobatch.options import ProbeOptions
from autobatch.records import (
    Device,
    LimitedBy,
    LimitKind,
    Outcome,
    ProbeResult,
    Proof,
    ProofKind,
    Trial,
)
from autobatch.result_cache import Entry
from autobatch.signature import Key
from autobatch.sizes import SizeSpace

DEVICE = Device(name="a card", kind="gpu", index=0, limit_bytes=1 << 31, budget_bytes=1 << 30)
TOLD = protocol.Signature(model="m" * 32, data="d" * 32, device="0000:01:00.0")
VERSIONS = {"tensorflow": "2.21.0", "keras": "3.15.1", "autobatch": "0.1.0"}
TARGET = protocol.Target(kind="script", path="/home/me/train.py", arguments=("--token", "hunter2"))


def key_of(**changes) -> Key:
    """The key of one and the same probe, but for what changes."""
    names = ("told", "device", "options", "uuid", "driver", "versions", "environment")
    given = {
        "told": TOLD, "device": DEVICE, "options": ProbeOptions(), "uuid": "GPU-1",
        "driver": "550.1", "versions": VERSIONS, "environment": {},
    }  # fmt: skip
    given |= changes
    told, device, options = (given.pop(name) for name in names[:3])
    return signature.make_key(told, device, options, **given)


KEY = key_of()
HEADER = Header(target="train.py", key=KEY)
PLAN = Plan(SizeSpace(maximum=64))


def trials_of(capacity: int, plan: Plan = PLAN) -> tuple[Trial, ...]:
    """All trials of a search on a device that takes sizes up to `capacity`."""
    device = Thresholds.capacity(capacity)
    return batch_search.run(plan, device.try_size, device.prove)[0].trials


TRIALS = trials_of(37)
WHOLE = b"".join(map(line, [HEADER, *TRIALS]))
ENTRY = Entry(
    target="train.py", model="Net", device="a card", when=1.5, key=KEY, batch_size=37,
    trials=TRIALS,
)  # fmt: skip


# -- what a key tells apart ------------------------------------------------------------------------


def test_the_same_probe_has_the_same_key():
    assert key_of() == KEY
    assert key_of().digest() == KEY.digest()
    assert key_of().differences(KEY) == ()


DIFFERENT = {
    "model": ({"told": msgspec.structs.replace(TOLD, model="other")}, "the model"),
    "data": ({"told": msgspec.structs.replace(TOLD, data="other")}, "the data"),
    "card": ({"uuid": "GPU-2"}, "the device (GPU-1 then, GPU-2 now)"),
    "driver": ({"driver": "560"}, "the driver (550.1 then, 560 now)"),
    "budget": (
        {"device": msgspec.structs.replace(DEVICE, budget_bytes=1 << 29)},
        "the memory budget (1 GiB then, 512 MiB now)",
    ),
    "room": (
        {"device": msgspec.structs.replace(DEVICE, limit_bytes=1 << 30)},
        "the memory of the search's trials (2 GiB then, 1 GiB now)",
    ),
    "tensorflow": (
        {"versions": VERSIONS | {"tensorflow": "2.22.0"}},
        "tensorflow (2.21.0 then, 2.22.0 now)",
    ),
    "option": ({"options": ProbeOptions(precision=0.0)}, "--precision (0.02 then, 0.0 now)"),
    "flag": ({"options": ProbeOptions(minimum=2)}, "--min (1 then, 2 now)"),
    "variable": ({"environment": {"TF_GPU_ALLOCATOR": "cuda_malloc_async"}}, "variables that"),
}


@pytest.mark.parametrize(("changes", "said"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_probe_has_another_key_and_says_why(changes, said):
    other = key_of(**changes)
    assert other != KEY
    assert other.digest() != KEY.digest()
    (told,) = other.differences(KEY)
    assert said in told


def test_what_does_not_matter_is_not_in_the_key():
    options = ProbeOptions(
        total_timeout=1.0, base_batch_size=8, learning_rate_rule="none", cache=False, resume=True,
        journal="x", memory_limit="1GiB",
    )  # fmt: skip
    environment = {"PATH": "/bin", "SECRET_TOKEN": "hunter2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    assert key_of(options=options, environment=environment) == KEY
    assert set(ProbeOptions.__struct_fields__) >= signature.FREE_OPTIONS


def test_a_key_holds_no_value_of_the_environment():
    key = key_of(environment={"TF_TOKEN": "hunter2", "XLA_\udcff": "\udcfe"})
    assert b"hunter2" not in msgspec.json.encode(key)


def test_without_nvml_the_device_goes_by_its_name():
    key = key_of(uuid="", driver="")
    assert key.device == "gpu a card 0000:01:00.0"
    assert "none now" in key.differences(KEY)[1]


# -- the journal as a file -------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "journal"
    mine = Journal(path)
    mine.begin(HEADER)
    for number, trial in enumerate(TRIALS):
        mine.add(trial)
        read = parse(path.read_bytes())
        assert (read.header, read.trials) == (HEADER, TRIALS[: number + 1]), "at once"
    mine.close()
    assert path.read_bytes() == WHOLE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for text in WHOLE.splitlines():
        check, body = json.loads(text)
        assert len(check) == 8
        assert isinstance(body, dict)


@given(st.integers(0, len(WHOLE)))
@example(0)
@example(1)
@example(len(line(HEADER)))
@example(len(WHOLE))
def test_of_a_truncated_journal_every_whole_line_counts(cut):
    read = parse(WHOLE[:cut])
    lines = WHOLE[:cut].count(b"\n")
    assert read.trials == TRIALS[: max(0, lines - 1)]
    assert (read.header is None) == (lines == 0)
    assert bool(read.damage) == (cut > 0 and WHOLE[cut - 1 : cut] != b"\n")
    assert len(read.ends) == lines


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_noticed_and_what_is_before_it_counts(at, flip):
    damaged = WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :]
    read = parse(damaged)
    before = WHOLE[:at].count(b"\n")
    assert read.damage
    assert read.trials == TRIALS[: max(0, before - 1)]


@settings(max_examples=300)
@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
@example(b'["00000000",{}]\n')
@example(b'["' + b"[" * 100_000 + b"\n")
@example(b"\n" * 50)
@example(WHOLE + b"\xff\xfe\n")
def test_any_bytes_can_be_read_as_a_journal(data):
    read = parse(data)
    assert len(read.ends) == (0 if read.header is None else 1 + len(read.trials))
    assert bool(read.damage) == ((0, *read.ends)[-1] < len(data))


@settings(max_examples=200)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
))  # fmt: skip
def test_any_json_with_a_good_check_can_be_read_as_a_journal(value):
    try:
        text = line(value)
    except (TypeError, OverflowError, msgspec.MsgspecError):
        return  # what msgspec cannot write is not in a file of its writing
    assert parse(text).header is None
    read = parse(line(HEADER) + text)
    assert read.header == HEADER
    assert read.trials == ()


def test_a_journal_has_limits():
    long = line(msgspec.structs.replace(TRIALS[0], why="x" * journal.MAX_LINE_BYTES))
    assert "too long" in parse(line(HEADER) + long).damage
    many = line(HEADER) + line(TRIALS[0]) * (journal.MAX_TRIALS + 5)
    read = parse(many)
    assert len(read.trials) == journal.MAX_TRIALS
    assert "too many trials" in read.damage


def test_another_version_is_damage():
    read = parse(line(msgspec.structs.replace(HEADER, journal=9)) + line(TRIALS[0]))
    assert read.header is None
    assert "its version is 9" in read.damage


def test_going_on_removes_what_is_damaged(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(WHOLE[:-7])
    mine = Journal(path)
    mine.resume(2)
    mine.add(TRIALS[2])
    mine.close()
    assert path.read_bytes() == b"".join(map(line, [HEADER, *TRIALS[:3]]))


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    path = tmp_path / "thesis.tex"
    for content in (b"\\documentclass", b'["a", "list"]', b"{}", b'["0123456789'):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="left as it is"):
            Journal(path)
        assert path.read_bytes() == content
    for start in range(14):  # as a probe leaves it that is killed at once
        path.write_bytes(WHOLE[:start])
        Journal(path).close()
        assert path.exists() == (start > 0), "an empty one goes"
    path.write_bytes(b"anything")
    Journal(path, ours=True).close()


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        Journal(tmp_path / "pipe")
    for path in (tmp_path, Path("/nowhere/journal"), Path("a\0b")):
        with pytest.raises(StorageError, match="cannot be opened"):
            Journal(path)


def test_two_probes_share_no_journal(tmp_path):
    path = tmp_path / "journal"
    mine = Journal(path)
    mine.begin(HEADER)
    with pytest.raises(UsageError, match="Another probe is writing"):
        Journal(path)
    mine.close()
    Journal(path).close()


def test_a_killed_writer_holds_no_lock_and_leaves_what_it_wrote(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(WHOLE[: len(line(HEADER))])
    program = (
        "import sys, os, signal; from pathlib import Path\n"
        "from autobatch.journal import Journal; from autobatch.records import Trial, Outcome\n"
        "mine = Journal(Path(sys.argv[1])); mine.resume(0)\n"
        "mine.add(Trial(batch_size=3, outcome=Outcome.FITS)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)])
    assert done.returncode == -signal.SIGKILL
    mine = Journal(path)
    assert [t.batch_size for t in mine.recorded.trials] == [3]
    mine.close()


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "journal"
    mine = Journal(path)
    mine.begin(HEADER)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(StorageError, match="takes no more"):
            mine.add(TRIALS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    mine.close()
    assert parse(path.read_bytes()) == parse(line(HEADER))


# -- a search that goes on -------------------------------------------------------------------------


@given(st.integers(0, 64), st.data())
def test_a_search_goes_on_from_any_of_its_trials_as_if_it_had_never_stopped(capacity, data):
    """Where sizes end as they ended before, the rest of the trials is the same, and the answer."""
    whole = trials_of(capacity)
    kept = whole[: data.draw(st.integers(0, len(whole)))]
    device = Thresholds.capacity(capacity)
    if isinstance(Search(PLAN, kept).next(), GiveUp):
        return  # nothing to go on to
    search, end = batch_search.run(PLAN, device.try_size, device.prove, trials=kept)
    assert search.trials[: len(whole)] == whole
    again = search.trials[len(whole) :]
    assert isinstance(end, Done) == bool(capacity)
    if isinstance(end, Done):
        assert end.batch_size == whole[-1].batch_size
        assert device.proofs[-1] == end.batch_size, "proven in this run"
        # what had been proven before is proven once more, and nothing else is repeated
        assert again == (whole[-1:] if len(kept) == len(whole) else ())


def test_what_was_proven_and_fails_now_is_not_the_answer():
    device = Thresholds.capacity(30)  # 37 went before
    _, end = batch_search.run(PLAN, device.try_size, device.prove, trials=TRIALS)
    assert device.proofs[0] == 37
    assert isinstance(end, GiveUp) or device.proofs[-1] == end.batch_size <= 30


# -- the cache -------------------------------------------------------------------------------------


@pytest.fixture
def cache(cache_folder) -> result_cache.Cache:
    return result_cache.open_cache()


def test_an_entry_is_found_again_and_by_no_other_key(cache, cache_folder):
    cache.store(ENTRY)
    assert cache.find(KEY) == ENTRY
    assert cache.find(key_of(uuid="GPU-2")) is None
    (path,) = (cache_folder / "results").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert cache.entries() == ([ENTRY], [])
    cache.drop(KEY)
    assert cache.find(KEY) is None


def test_an_entry_under_a_wrong_name_is_none(cache):
    other = key_of(uuid="GPU-2")
    cache.store(ENTRY)
    cache.path(KEY).rename(cache.path(other))
    assert cache.find(other) is None


GOOD = line(ENTRY)


@given(
    st.binary(max_size=300)
    | st.integers(0, len(GOOD) - 2).map(lambda n: GOOD[:n])
    | st.tuples(st.integers(0, len(GOOD) - 2), st.integers(1, 255)).map(
        lambda f: GOOD[: f[0]] + bytes([GOOD[f[0]] ^ f[1]]) + GOOD[f[0] + 1 :]
    )
)
@example(line({"result": 1}))
@example(line(msgspec.structs.replace(ENTRY, result=2)))
@example(line(msgspec.structs.replace(ENTRY, batch_size=38)))  # never proven
@example(line(msgspec.structs.replace(ENTRY, when=1e300)))
@example(line(msgspec.structs.replace(ENTRY, when=-1e300)))
@example(line(msgspec.structs.replace(ENTRY, trials=TRIALS[:2])))
@example(b"[" * 200_000)
def test_any_other_bytes_are_no_entry(data):
    with pytest.raises(StorageError):
        result_cache.parse(data, Path("entry"))


def test_the_oldest_go_when_there_are_too_many(cache, monkeypatch):
    monkeypatch.setattr(result_cache, "MAX_ENTRIES", 3)
    keys = [key_of(uuid=f"GPU-{n}") for n in range(5)]
    for number, key in enumerate(keys):
        cache.store(msgspec.structs.replace(ENTRY, key=key, when=float(number)))
        os.utime(cache.path(key), (number, number))
    assert [cache.find(key) is not None for key in keys] == [False, False, True, True, True]


def test_the_command_lists_and_clears(cache, cache_folder):
    run = CliRunner().invoke
    assert "No answer is kept" in run(cli.main, ["cache", "list"]).stderr
    cache.store(msgspec.structs.replace(ENTRY, model="Net\x1b[2J\x9b31m", target="t\u202e.py"))
    (cache_folder / "results" / "bad.json").write_bytes(b"\xff")
    (cache_folder / "journals").mkdir()
    (cache_folder / "journals" / "x.jsonl").write_bytes(WHOLE)
    listed = run(cli.main, ["cache", "list"])
    assert listed.exit_code == 0
    assert "batch size     37  t.py (Net; 1 GiB on a card)" in listed.stdout
    assert "bad.json is damaged" in listed.stderr
    told = run(cli.main, ["cache", "list", "--json"])
    assert not {"\x1b", "\x9b", "\u202e"} & set(listed.output + told.output)
    assert json.loads(told.stdout)[0]["model"] == "Net\x1b[2J\x9b31m"
    assert "2 results, 1 journals" in run(cli.main, ["cache", "clear"]).stdout
    assert json.loads(run(cli.main, ["cache", "clear", "--json"]).stdout) == {
        "results": 0, "journals": 0
    }  # fmt: skip
    assert not list((cache_folder / "journals").iterdir())


def test_a_cache_that_cannot_be_is_an_error_of_the_command(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOBATCH_CACHE_DIR", str(tmp_path / "file"))
    done = CliRunner().invoke(cli.main, ["cache", "list", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["kind"] == "storage"


# -- what a probe keeps and takes ------------------------------------------------------------------


class Told:
    """An observer that keeps the notices."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event) -> None:
        assert isinstance(event, Notice)
        self.texts.append(event.text)


def result_of(kind: LimitKind) -> ProbeResult:
    return ProbeResult(
        batch_size=37, global_batch_size=37, limited_by=LimitedBy(kind, "so"), device=DEVICE,
        peak_bytes=None, headroom_bytes=0, proof=Proof(kind=ProofKind.FRESH_PROCESS, steps=8),
        trials=TRIALS, seconds=1.0, versions=VERSIONS,
    )  # fmt: skip


def begun(key=KEY, plan=PLAN, **options):
    """A keeper that has begun, what it found, and what it said."""
    told = Told()
    keeper = Keeper(TARGET, ProbeOptions(**options), told)
    earlier = keeper.begin(key, plan)
    return keeper, earlier, told


def test_an_answer_is_kept_and_found_and_the_journal_goes(cache_folder):
    keeper, earlier, told = begun()
    assert (earlier.trials, earlier.entry, told.texts) == ((), None, [])
    keeper.add(*TRIALS)
    (path,) = (cache_folder / "journals").iterdir()
    assert parse(path.read_bytes()).trials == TRIALS
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    assert not path.exists()
    _, earlier, _ = begun()
    assert earlier.entry is not None
    assert (earlier.entry.batch_size, earlier.entry.trials) == (37, TRIALS)
    assert begun(key_of(uuid="GPU-2"))[1].entry is None
    assert begun(cache=False)[1].entry is None


@pytest.mark.parametrize("kind", sorted(set(LimitKind) - set(keeping.LASTING)))
def test_an_answer_that_may_be_of_the_day_is_not_kept(kind):
    keeper, *_ = begun()
    keeper.finish(result_of(kind), "Net", Search(PLAN, TRIALS))
    assert begun()[1].entry is None


def test_nor_is_one_that_was_cut_short_or_not_to_be_kept():
    keeper, *_ = begun()
    keeper.finish(result_of(LimitKind.MEMORY), "Net", None)
    keeper, *_ = begun(cache=False)
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    assert begun()[1].entry is None


def stopped(count: int, **options) -> None:
    keeper, *_ = begun(**options)
    keeper.add(*TRIALS[:count])
    keeper.close()


def test_a_stopped_probe_is_gone_on_from():
    stopped(3)
    keeper, earlier, told = begun(resume=True)
    assert earlier.trials == TRIALS[:3]
    assert "Going on after 3 trials" in told.texts[0]
    keeper.add(TRIALS[3])
    keeper.close()
    assert begun(resume=True)[1].trials == TRIALS[:4]


def test_without_resume_it_begins_anew_and_says_what_could_have_been():
    stopped(3)
    keeper, earlier, told = begun()
    assert earlier.trials == ()
    assert "--resume would have gone on" in told.texts[0]
    keeper.close()
    _, earlier, told = begun(resume=True)
    assert earlier.trials == ()


def test_another_key_begins_anew_and_says_what_differs():
    stopped(3)
    keeper, earlier, told = begun(key_of(driver="560"), resume=True)
    assert earlier.trials == ()
    assert "starting anew" in told.texts[0]
    assert "the driver (550.1 then, 560 now)" in told.texts[0]
    assert keeper.warnings == tuple(told.texts)


def test_no_journal_is_said(tmp_path):
    assert "There is no journal" in begun(resume=True)[2].texts[0]
    path = tmp_path / "mine"
    keeper, _, told = begun(resume=True, journal=str(path))
    assert "There is no journal" in told.texts[0]
    keeper.close()
    assert path.exists(), "the header is in it now"


def test_a_journal_of_ones_own_stays_with_the_answer(tmp_path):
    path = tmp_path / "mine"
    keeper, *_ = begun(journal=str(path))
    keeper.add(*TRIALS)
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    assert parse(path.read_bytes()).trials == TRIALS


def test_a_crash_at_the_end_is_tried_again_and_one_before_is_not():
    crash = Trial(batch_size=40, outcome=Outcome.CRASHED, why="killed by SIGKILL")
    keeper, *_ = begun()
    keeper.add(TRIALS[0], crash, TRIALS[1], crash, crash)
    keeper.close()
    keeper, earlier, _ = begun(resume=True)
    assert earlier.trials == (TRIALS[0], crash, TRIALS[1])
    keeper.close()
    assert begun(resume=True)[1].trials == (TRIALS[0], crash, TRIALS[1])


def test_a_probe_that_gave_up_is_not_gone_on_from():
    failed = trials_of(0)
    keeper, *_ = begun()
    keeper.add(*failed)
    keeper.close()
    _, earlier, told = begun(resume=True)
    assert earlier.trials == ()
    assert "ended without an answer" in told.texts[0]


def test_a_damaged_journal_is_gone_on_from_as_far_as_it_can_be_read(cache_folder):
    stopped(3)
    (path,) = (cache_folder / "journals").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    keeper, earlier, told = begun(resume=True)
    assert earlier.trials == TRIALS[:2]
    assert "is damaged: its last line is cut off. The 2 trials before" in told.texts[0]
    keeper.close()
    path.write_bytes(b"\xff" * 99)
    _, earlier, told = begun(resume=True)
    assert earlier.trials == ()
    assert "Starting anew" in told.texts[0]


def test_a_damaged_entry_is_a_miss_with_a_warning(cache):
    keeper, *_ = begun()
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    path = cache.path(KEY)
    path.write_bytes(path.read_bytes()[:-5])
    keeper, earlier, told = begun()
    assert earlier.entry is None
    assert "damaged" in told.texts[0]
    assert keeper.warnings
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    assert begun()[1].entry is not None, "written anew"


def test_a_dropped_answer_is_gone():
    keeper, *_ = begun()
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    begun()[0].drop()
    assert begun()[1].entry is None


def test_a_folder_that_cannot_be_does_not_end_the_probe(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOBATCH_CACHE_DIR", str(tmp_path / "file"))
    keeper, earlier, _ = begun(resume=True)
    keeper.add(TRIALS[0])
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    keeper.close()
    assert (earlier.trials, earlier.entry) == ((), None)
    assert len(keeper.warnings) == 3  # the journal, and the cache asked and told
    assert all("cannot be used" in warning for warning in keeper.warnings)


def test_a_named_journal_that_cannot_be_is_wrong_usage():
    with pytest.raises(UsageError, match="--journal"):
        Keeper(TARGET, ProbeOptions(journal="/nowhere/journal"), Told())
    done = CliRunner().invoke(
        cli.main, ["probe", str(Path(__file__)), "--journal", "/nowhere/x", "--json"]
    )
    assert done.exit_code == 2
    assert "/nowhere/x cannot be opened" in json.loads(done.stdout)["error"]["message"]


def test_a_journal_that_takes_no_more_is_said_once(tmp_path):
    keeper, _, told = begun(journal=str(tmp_path / "mine"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for _ in range(20):
            keeper.add(*TRIALS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    keeper.close()
    assert len(told.texts) == 1
    assert "takes no more (File too large)" in told.texts[0]
    read = parse((tmp_path / "mine").read_bytes())
    assert read.trials == (TRIALS * 20)[: len(read.trials)]
    assert not read.damage


def test_two_probes_of_one_target_go_on_side_by_side():
    first, *_ = begun()
    second, _, told = begun()
    assert "Another probe is writing" in told.texts[0]
    first.add(TRIALS[0])
    second.add(TRIALS[1])
    first.close()
    second.close()
    assert begun(resume=True)[1].trials == TRIALS[:1]


@pytest.mark.parametrize("own", [False, True])
def test_without_a_signature_nothing_is_kept(cache_folder, tmp_path, own):
    path = tmp_path / "mine"
    path.write_bytes(WHOLE)
    keeper, _, told = begun(key=None, **({"journal": str(path)} if own else {}))
    keeper.add(*TRIALS)
    keeper.drop()
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    assert not cache_folder.exists()
    assert path.read_bytes() == WHOLE
    assert "cannot be told from other models" in told.texts[0]


def test_a_scripts_arguments_are_in_no_file(cache_folder):
    """They may hold a password; who can read the files otherwise is their owner alone."""
    keeper, *_ = begun()
    keeper.add(*TRIALS)
    written = [p for p in cache_folder.rglob("*") if p.is_file()]
    keeper.finish(result_of(LimitKind.MEMORY), "Net", Search(PLAN, TRIALS))
    written += [p for p in cache_folder.rglob("*") if p.is_file()]
    assert len(written) == 2
    for path in written:
        assert "hunter2" not in str(path)
        if path.exists():
            assert b"hunter2" not in path.read_bytes()
            assert b"train.py" in path.read_bytes()


# -- arbitrary input elsewhere ---------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from(["Request", "Answer"]))
@example([b"\0\0\0\x02{}"], "Answer")
def test_any_bytes_on_the_channel_are_messages_or_an_error_of_ours(pieces, expected):
    inbox = protocol.Inbox(getattr(protocol, expected))
    for piece in pieces:
        inbox.feed(piece)
        try:
            while inbox.next() is not None:
                pass
        except WorkerError:
            return


texts = st.text(max_size=80) | st.binary(max_size=80).map(
    lambda b: b.decode("utf-8", "surrogateescape")
)


@settings(max_examples=300)
@given(
    st.builds(
        oom.Evidence,
        exception_types=st.lists(texts, max_size=3).map(tuple),
        message=texts,
        causes=st.lists(st.tuples(st.lists(texts, max_size=2).map(tuple), texts), max_size=2).map(
            tuple
        ),
        log=texts,
        exit_status=st.none() | st.integers(-70, 300),
        phase=texts,
        device=st.sampled_from(["cpu", "gpu"]) | texts,
        device_free_bytes=st.none() | st.integers(0, 1 << 62),
        smaller_size_passed=st.booleans(),
    )
)
def test_any_evidence_has_a_diagnosis(evidence):
    found = oom.diagnose(evidence)
    assert isinstance(found.outcome, Outcome)
    assert isinstance(found.why, str)
