"""What is to happen when somebody imports a module."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from autobatch.import_hooks import when_imported

MODULE = "something_to_import"


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / f"{MODULE}.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield MODULE
    sys.modules.pop(MODULE, None)


def test_it_is_told_once_and_when_the_module_is_whole(module):
    told: list[int] = []
    when_imported(module, lambda found: told.append(found.answer))
    assert told == []
    importlib.import_module(module)
    importlib.reload(sys.modules[module])
    assert told == [42]


def test_who_only_looks_whether_it_is_there_changes_nothing(module):
    """As `import tensorflow` looks for Keras before it imports it."""
    told: list[int] = []
    when_imported(module, lambda found: told.append(found.answer))
    assert importlib.util.find_spec(module) is not None
    assert told == []
    importlib.import_module(module)
    assert told == [42]
