"""Imports run one way, the heavy ones come late, and `import autobatch` costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "autobatch"

# From the bottom to the top: a room imports only from rooms above it in this list. A package is
# one room; inside of it there are no cycles.
ROOMS = [
    "errors",
    "import_hooks",
    "interrupts",
    "units",
    "records",
    "length_buckets",
    "events",
    "sizes",
    "bfc",
    "footprint",
    "replays",
    "fragmentation",
    "foresight",
    "residents",
    "leaks",
    "memory_model",
    "evidence",
    "batch_search",
    "throughput",
    "length_model",
    "bucket_search",
    "learning_rate",
    "options",
    "bucket_options",
    "bucket_records",
    "oom_wordings",
    "oom_texts",
    "oom",
    "device_faults",
    "run_plan",
    "protocol",
    "storage",
    "signature",
    "journal",
    "result_cache",
    "pickles",
    "targets",
    "nvml",
    "visible_devices",
    "neighbours",
    "devices",
    "survey",
    "device_lock",
    "warden",
    "worker_process",
    "launcher",
    "worker",
    "endings",
    "engine",
    "conversation",
    "calls",
    "function_worker",
    "isolation",
    "own_options",
    "own_search",
    "any_loop",
    "crew",
    "verdict",
    "keeping",
    "report",
    "searching",
    "in_workers",
    "probing",
    "bucket_data",
    "bucket_proof",
    "bucket_report",
    "bucket_searching",
    "bucket_probing",
    "bucketing",
    "as_trained",
    "live_search",
    "callback",
    "run_probe",
    "run_main",
    "cli",
    "__main__",
    "__init__",
]
# Inside functions alone, against the order, and why.
UPWARD = {
    # the thin loop is there before TensorFlow is, and the engine is not; the engine leaves by it
    ("worker", "engine"),
}
# What a room may import from other distributions at its top, and what inside functions alone.
TOP = {
    "records": {"msgspec"},
    "footprint": {"msgspec"},
    "length_buckets": {"msgspec"},
    "options": {"msgspec"},
    "bucket_options": {"msgspec"},
    "bucket_records": {"msgspec"},
    "bucket_data": {"msgspec"},
    "bucket_proof": {"msgspec"},
    "bucket_searching": {"msgspec"},
    "protocol": {"msgspec"},
    "signature": {"msgspec"},
    "journal": {"msgspec"},
    "result_cache": {"msgspec"},
    "engine": {"tensorflow", "keras", "numpy", "cloudpickle", "msgspec"},
    "nvml": {"msgspec"},
    "survey": {"msgspec"},
    "probing": {"msgspec"},
    "crew": {"msgspec"},
    "endings": {"msgspec"},
    "own_search": {"msgspec"},
    "run_plan": {"msgspec"},
    "run_main": {"msgspec"},
    "run_probe": {"msgspec"},
    "callback": {"keras", "msgspec"},
    "live_search": {"tensorflow", "msgspec"},
    "searching": {"msgspec"},
    "report": {"rich"},
    "cli": {"click"},
}
LATE = {
    "pickles": {"cloudpickle"},
    "targets": {"keras"},  # a live model is there only if Keras is, too
    "nvml": {"pynvml"},
    "devices": {"psutil"},
    "neighbours": {"psutil"},
    "worker": {"tensorflow", "keras"},
    "function_worker": {"cloudpickle"},
    "engine": {"msgspec"},
    "cli": {"msgspec"},
}
HEAVY = ["tensorflow", "keras", "numpy", "rich", "pynvml", "click"]


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, where, and whether it waits inside a function."""

    module: str
    imported: str
    line: int
    late: bool

    def __str__(self) -> str:
        return f"autobatch/{self.module.replace('.', '/')}.py:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__") if "." in name else name] = path
    return found


def imports_of(module: str, path: Path) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            late = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            late = True  # never at run time
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found.extend(Import(module, name, node.lineno, late) for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(ast.parse(path.read_text(encoding="utf-8")), late=False)
    return found


MODULES = modules()
IMPORTS = [each for name, path in MODULES.items() for each in imports_of(name, path)]


def ours(name: str) -> str | None:
    """The module of ours that `autobatch.a.b.Name` is, or is in; None for others' modules."""
    if name.split(".")[0] != "autobatch":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "__init__"


def room(module: str) -> str:
    return module.split(".")[0]


def test_the_parser_sees_what_there_is() -> None:
    seen = {(i.module, i.imported, i.late) for i in IMPORTS}
    assert ("batch_search", "autobatch.memory_model", False) in seen
    assert ("worker", "tensorflow", True) in seen
    assert ("__init__", "autobatch.probing.probe", True) in seen
    assert ours("autobatch.records.Trial") == "records"
    assert ours("autobatch.engine.training.Training") == "engine.training"
    assert ours("msgspec.json") is None


def test_every_room_has_its_place() -> None:
    there = {room(module) for module in MODULES}
    assert there <= set(ROOMS), f"give these a place in ROOMS: {there - set(ROOMS)}"
    assert len(ROOMS) == len(set(ROOMS))


def upward(each: Import) -> bool:
    inside = ours(each.imported)
    if inside is None or room(inside) == room(each.module):
        return False
    if not {room(inside), room(each.module)} <= set(ROOMS):
        return False  # another test asks for their place
    return ROOMS.index(room(inside)) >= ROOMS.index(room(each.module))


def test_imports_at_the_top_run_one_way() -> None:
    wrong = [str(each) for each in IMPORTS if not each.late and upward(each)]
    assert not wrong


def test_late_imports_run_one_way_but_for_those_listed() -> None:
    late = [each for each in IMPORTS if each.late and upward(each)]
    pairs = {(room(each.module), room(ours(each.imported) or "")) for each in late}
    assert pairs == UPWARD, [str(each) for each in late]


@pytest.mark.parametrize("package", ["engine", "report"])
def test_there_is_no_cycle_inside_a_package(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for each in IMPORTS:
        inside = ours(each.imported)
        if inside and inside != each.module and room(each.module) == room(inside) == package:
            graph.setdefault(each.module, set()).add(inside)
    assert graph
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_other_distributions_are_imported_only_where_they_belong() -> None:
    wrong = []
    for each in IMPORTS:
        other = each.imported.split(".")[0]
        if other in sys.stdlib_module_names or other == "autobatch":
            continue
        allowed = set(TOP.get(room(each.module), ()))
        if each.late:
            allowed |= LATE.get(room(each.module), set())
        if other not in allowed:
            wrong.append(str(each))
    assert not wrong


def test_only_the_engine_and_the_callback_import_tensorflow_at_the_top() -> None:
    heavy = {
        room(each.module)
        for each in IMPORTS
        if not each.late and each.imported.split(".")[0] in ("tensorflow", "keras", "tf_keras")
    }
    assert heavy <= {"engine", "callback", "live_search"}


def test_errors_imports_nothing_of_ours() -> None:
    assert not [str(i) for i in IMPORTS if i.module == "errors" and ours(i.imported)]


# -- in a fresh interpreter ----------------------------------------------------------------------


def loaded_by(program: str) -> set[str]:
    """The top-level modules that a program has imported at its end."""
    program += "\nimport sys; print('\\n'.join(sorted({m.split('.')[0] for m in sys.modules})))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(ran.stdout.split())


def test_importing_autobatch_is_light() -> None:
    loaded = loaded_by("import autobatch")
    assert "autobatch" in loaded
    assert not loaded & {*HEAVY, "psutil", "cloudpickle"}
    # and nothing at all but the standard library, and msgspec if need be
    others = loaded - set(sys.stdlib_module_names) - {"autobatch", "msgspec", "__main__"}
    assert not [name for name in others if not name.startswith("_")]


def test_the_public_names_are_there_and_need_no_tensorflow() -> None:
    # but the callback's, which is a class of Keras's
    program = (
        "import autobatch\nfor name in {*autobatch.__all__} - {'AutoBatch'}: "
        "getattr(autobatch, name)"
    )
    assert not loaded_by(program) & {"tensorflow", "keras", "numpy", "rich", "pynvml", "click"}


def test_the_command_needs_no_tensorflow() -> None:
    loaded = loaded_by("import autobatch.cli, autobatch.probing, autobatch.report.live")
    assert "click" in loaded
    assert not loaded & {"tensorflow", "keras", "numpy", "pynvml"}


def test_the_command_line_alone_is_light() -> None:
    assert not loaded_by("import autobatch.cli") & {"rich", "msgspec", "psutil", "tensorflow"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import autobatch

    with pytest.raises(AttributeError, match="no_such_thing"):
        autobatch.no_such_thing  # noqa: B018
    assert set(autobatch.__all__) <= set(dir(autobatch))
