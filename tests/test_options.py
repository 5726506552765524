"""The options of a probe: what is refused, by name, and what the defaults are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.errors import UsageError
from autobatch.options import ProbeOptions
from autobatch.units import MIB

COUNTS = ["minimum", "maximum", "multiple_of", "steps", "proof_steps", "base_batch_size",
          "sequence_length", "fit_call"]  # fmt: skip
SECONDS = ["timeout", "load_timeout", "total_timeout", "base_learning_rate"]

BAD = [
    *[(name, value) for name in COUNTS for value in (0, -1, 1 << 60, 2.5, "3", True)],
    *[(name, value) for name in SECONDS for value in (0, -1.0, math.nan, math.inf, "3")],
    *[("precision", value) for value in (-0.01, 1, 1.5, math.nan, math.inf, "2%")],
    *[("memory_limit", value) for value in ("", "0", "much", "5%", "-1GiB", 512)],
    *[("headroom", value) for value in ("", "100%", "-5%", "much", "nan%", 0.05)],
    ("learning_rate_rule", "cubic"),
    ("learning_rate_rule", None),
    ("run_as", "notebook"),
    ("backend", "jax"),
    ("input_shapes", {"image": (0,)}),
    ("input_shapes", {"image": (32, -1, 3)}),
    ("input_shapes", {"image": (None, 3)}),
    ("input_shapes", [32, 32, 3]),
    ("device", 0),
    ("power_of_two", "yes"),
    ("validation", None),
    ("dataset_cap", 1),
    ("safe_mode", "no"),
    ("optimizer", 3),
    ("loss", ["mse"]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name_with_what_was_received(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        ProbeOptions.checked(**{name: value})
    assert name in caught.value.message
    assert "received" in caught.value.message


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 7])
def test_good_counts(name: str, value: int) -> None:
    assert getattr(ProbeOptions.checked(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", 0),
        ("precision", 0.0),
        ("precision", 0.999),
        ("timeout", 1),
        ("base_learning_rate", 1e-9),
        ("memory_limit", "1.5 GB"),
        ("headroom", "0%"),
        ("headroom", "0"),
        ("headroom", "256MiB"),
        ("input_shapes", {"": (32, 32, 3), "tokens": ()}),
        ("backend", "tensorflow"),
        ("backend", None),
        ("learning_rate_rule", "sqrt"),
    ],
)
def test_good_values(name: str, value: object) -> None:
    assert getattr(ProbeOptions.checked(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minimum": 9, "maximum": 8}, ["9", "8", "--min"]),
        ({"power_of_two": True, "multiple_of": 12}, ["12", "--power-of-two", "--multiple-of"]),
        ({"power_of_two": True, "minimum": 33, "maximum": 63}, ["33", "63", "power of two"]),
        ({"multiple_of": 8, "maximum": 7}, ["8", "7"]),
    ],
)
def test_sizes_that_leave_nothing_are_refused_before_a_worker_starts(
    options: dict, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        ProbeOptions.checked(**options)
    for word in words:
        assert word in caught.value.message


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        ProbeOptions.checked(memory="1GiB", precision=5)
    assert "'memory'" in caught.value.message
    assert "memory_limit" in caught.value.message


def test_the_first_of_several_bad_options_is_named() -> None:
    with pytest.raises(UsageError, match="steps"):
        ProbeOptions.checked(steps=0, timeout=30.0)


def test_the_defaults_are_those_of_the_documentation() -> None:
    options = ProbeOptions.checked()
    assert options == ProbeOptions()
    assert (options.minimum, options.maximum, options.multiple_of) == (1, None, 1)
    assert options.precision == 0.02
    assert options.validation
    assert options.safe_mode
    assert options.dataset_cap
    assert options.device == "auto"


def test_options_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ProbeOptions().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("headroom", "expected"),
    [(None, None), ("0", 0), ("5%", 50 * MIB), ("256MiB", 256 * MIB), ("0%", 0)],
)
def test_headroom_in_bytes(headroom: str | None, expected: int | None) -> None:
    assert ProbeOptions(headroom=headroom).headroom_bytes(1000 * MIB) == expected


@given(
    st.dictionaries(
        st.sampled_from(ProbeOptions.__struct_fields__),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        | st.dictionaries(st.text(), st.lists(st.integers()).map(tuple)),
        max_size=3,
    )
)  # fmt: skip
def test_any_options_are_taken_or_refused(options: dict) -> None:
    try:
        made = ProbeOptions.checked(**options)
    except UsageError:
        return
    for name, value in options.items():
        assert getattr(made, name) == value
