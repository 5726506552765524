"""The rules, their sources' numbers, and schedules against Keras's own classes."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import learning_rate
from autobatch.errors import UsageError
from autobatch.learning_rate import (
    RULES,
    rule_for,
    scale_factor,
    scale_learning_rate,
    scale_schedule,
)
from autobatch.records import OptimizerInfo

# Every optimizer class of Keras 3.15; the slow test below compares the list with the real one.
KERAS_OPTIMIZERS = {
    "SGD": "linear",
    "Adam": "sqrt",
    "AdamW": "sqrt",
    "Adamax": "sqrt",
    "Nadam": "sqrt",
    "RMSprop": "sqrt",
    "Adagrad": "sqrt",
    "Adadelta": "sqrt",
    "Ftrl": "sqrt",
    "Lion": "sqrt",
    "Muon": "sqrt",
    "Lamb": "sqrt",
    "ScheduleFreeAdamW": "sqrt",
    "Adafactor": "none",
    "LossScaleOptimizer": "sqrt",
    "MultiOptimizer": "sqrt",
}
SGD = OptimizerInfo(class_name="SGD", learning_rate=0.05, momentum=0.9)
ADAM = OptimizerInfo(class_name="Adam", learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7)


def schedule(name: str, **config: object) -> dict:
    return {
        "module": "keras.optimizers.schedules",
        "class_name": name,
        "config": {**config, "name": None},
        "registered_name": None,
    }


COSINE = schedule(
    "CosineDecay",
    initial_learning_rate=0.0,
    decay_steps=1000,
    alpha=0.1,
    warmup_target=0.1,
    warmup_steps=100,
)
PIECEWISE = schedule("PiecewiseConstantDecay", boundaries=[100, 250], values=[0.1, 0.01, 0.001])


def test_sgd_takes_the_linear_rule():
    for size in (1, 16, 61, 1000):
        scaled = scale_learning_rate(SGD, base_batch_size=16, batch_size=size)
        assert scaled.rule == "linear"
        assert scaled.learning_rate == 0.05 * size / 16
        assert scaled.hyperparameters == {}


def test_adam_takes_the_square_root_and_its_hyperparameters():
    for size in (16, 64, 65, 500):
        scaled = scale_learning_rate(ADAM, base_batch_size=64, batch_size=size)
        assert scaled.rule == "sqrt"
        assert scaled.learning_rate == 0.001 * math.sqrt(size / 64)
    scaled = scale_learning_rate(ADAM, base_batch_size=64, batch_size=256)
    assert scaled.hyperparameters == pytest.approx(
        {"beta_1": 0.6, "beta_2": 0.996, "epsilon": 5e-8}
    )
    assert not [sentence for sentence in scaled.advice if "does not reach" in sentence]


@pytest.mark.parametrize("factor", [10, 16])
def test_a_beta_beyond_the_rule_is_cut_to_zero_and_said(factor):
    scaled = scale_learning_rate(ADAM, base_batch_size=64, batch_size=64 * factor)
    assert scaled.hyperparameters["beta_1"] == 0
    assert scaled.hyperparameters["beta_2"] == pytest.approx(1 - factor * 0.001)
    [sentence] = [sentence for sentence in scaled.advice if "does not reach" in sentence]
    assert "beta_1" in sentence


def test_rmsprop_has_rho_for_a_beta():
    known = OptimizerInfo(class_name="RMSprop", learning_rate=0.01, beta_2=0.9, epsilon=1e-7)
    scaled = scale_learning_rate(known, base_batch_size=32, batch_size=128)
    assert scaled.hyperparameters == pytest.approx({"rho": 0.6, "epsilon": 5e-8})
    unknown = OptimizerInfo(class_name="RMSprop", learning_rate=0.01, epsilon=1e-7)
    scaled = scale_learning_rate(unknown, base_batch_size=32, batch_size=128)
    assert scaled.hyperparameters == pytest.approx({"epsilon": 5e-8})
    assert any("1 - 4 (1 - rho)" in sentence for sentence in scaled.advice)


@pytest.mark.parametrize("name", ["Lion", "Muon", "Lamb", "SGD", "Adagrad"])
def test_hyperparameters_outside_the_derivation_are_left_alone(name):
    info = OptimizerInfo(class_name=name, learning_rate=0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-7)
    scaled = scale_learning_rate(info, base_batch_size=32, batch_size=64, rule="sqrt")
    assert scaled.hyperparameters == {}


def test_schedule_free_adamw_keeps_its_averaging_weight():
    info = OptimizerInfo(
        class_name="ScheduleFreeAdamW", learning_rate=0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-8
    )
    scaled = scale_learning_rate(info, base_batch_size=32, batch_size=128)
    assert scaled.hyperparameters == pytest.approx({"beta_2": 0.96, "epsilon": 5e-9})
    assert any("warmup_steps" in sentence for sentence in scaled.advice)


@pytest.mark.parametrize(("name", "rule"), KERAS_OPTIMIZERS.items())
def test_every_optimizer_of_keras_has_a_rule_and_a_reason(name, rule):
    got, reason = rule_for(OptimizerInfo(class_name=name, learning_rate=0.001))
    assert got == rule
    assert reason.startswith(f"{name}: ")
    assert reason.endswith(".")
    assert "no rule for it is known" not in reason


def test_registered_names_are_understood():
    assert rule_for(OptimizerInfo(class_name="tfa>SGDW"))[0] == "linear"


def test_adadelta_at_its_own_rate_is_left_alone():
    assert rule_for(OptimizerInfo(class_name="Adadelta", learning_rate=1.0))[0] == "none"
    info = OptimizerInfo(class_name="Adadelta", learning_rate=0.001)
    given_one = scale_learning_rate(info, base_batch_size=1, batch_size=4, base_learning_rate=1.0)
    assert (given_one.rule, given_one.learning_rate) == ("none", 1.0)


@pytest.mark.parametrize("name", ["MyOptimizer", "LossScaleOptimizer", "MultiOptimizer"])
def test_a_guess_is_called_a_guess(name):
    info = OptimizerInfo(class_name=name, learning_rate=0.1)
    scaled = scale_learning_rate(info, base_batch_size=32, batch_size=128)
    assert (scaled.rule, scaled.learning_rate) == ("sqrt", 0.2)
    assert scaled.advice[0].startswith("Warning: ")
    asked = scale_learning_rate(info, base_batch_size=32, batch_size=128, rule="linear")
    assert not [sentence for sentence in asked.advice if "guess" in sentence]


def test_a_rule_can_be_asked_for():
    scaled = scale_learning_rate(ADAM, base_batch_size=32, batch_size=128, rule="linear")
    assert (scaled.rule, scaled.learning_rate, scaled.hyperparameters) == ("linear", 0.004, {})
    assert "asked for" in scaled.reason
    none = scale_learning_rate(ADAM, base_batch_size=32, batch_size=128, rule="none")
    assert (none.factor, none.learning_rate) == (1.0, 0.001)
    same = scale_learning_rate(ADAM, base_batch_size=32, batch_size=128, rule="sqrt")
    assert same == scale_learning_rate(ADAM, base_batch_size=32, batch_size=128)


def test_the_optimizers_attribute_is_kept():
    info = OptimizerInfo(attribute="d_optimizer", class_name="SGD", learning_rate=0.1)
    scaled = scale_learning_rate(info, base_batch_size=8, batch_size=16)
    assert scaled.optimizer == "d_optimizer"


ADVICE = {
    "Warm up": "Goyal",
    "8192": "above, accuracy fell",
    "Shallue": "No rule holds",
    "Keskar": "does not generalise better",
    "times as many steps": "An epoch",
}


@pytest.mark.parametrize(
    ("optimizer", "base", "size", "rule", "said"),
    [
        (SGD, 16, 16, "auto", set()),
        (SGD, 16, 64, "auto", {"Warm up", "Shallue", "Keskar"}),
        (SGD, 16, 8192, "auto", {"Warm up", "Shallue", "Keskar"}),
        (SGD, 16, 8193, "auto", {"Warm up", "8192", "Shallue", "Keskar"}),
        (SGD, 64, 16, "auto", {"Shallue", "times as many steps"}),
        (SGD, 9000, 9000, "auto", set()),
        (SGD, 16, 64, "none", {"Keskar"}),
        (ADAM, 16, 9000, "auto", {"Shallue", "Keskar"}),
        (ADAM, 64, 16, "auto", {"Shallue", "times as many steps"}),
    ],
)
def test_advice_appears_only_where_it_applies(optimizer, base, size, rule, said):
    scaled = scale_learning_rate(optimizer, base_batch_size=base, batch_size=size, rule=rule)
    text = "\n".join(scaled.advice)
    assert {word for word in ADVICE if word in text} == said
    assert all(ADVICE[word] in text for word in said)
    assert all(len(sentence) < 200 for sentence in scaled.advice)


def test_a_schedule_that_warms_up_needs_no_advice_to():
    info = OptimizerInfo(class_name="SGD", learning_rate=0.0, schedule=COSINE)
    scaled = scale_learning_rate(info, base_batch_size=16, batch_size=64)
    assert not [sentence for sentence in scaled.advice if "Warm up" in sentence]
    assert (scaled.base_learning_rate, scaled.learning_rate) == (0.0, 0.0)
    assert scaled.schedule is not None
    assert scaled.schedule["config"] == {
        "initial_learning_rate": 0.0,
        "decay_steps": 250,
        "alpha": 0.1,
        "warmup_target": 0.4,
        "warmup_steps": 25,
        "name": None,
    }


def test_a_schedules_steps_shrink_under_every_rule():
    info = OptimizerInfo(class_name="Adafactor", learning_rate=0.1, schedule=PIECEWISE)
    scaled = scale_learning_rate(info, base_batch_size=16, batch_size=32)
    assert scaled.schedule is not None
    assert scaled.schedule["config"]["boundaries"] == [50, 125]
    assert scaled.schedule["config"]["values"] == [0.1, 0.01, 0.001]


def test_a_base_rate_stretches_the_whole_schedule():
    info = OptimizerInfo(class_name="SGD", learning_rate=0.1, schedule=PIECEWISE)
    scaled = scale_learning_rate(info, base_batch_size=16, batch_size=32, base_learning_rate=0.2)
    assert (scaled.base_learning_rate, scaled.learning_rate) == (0.2, 0.4)
    assert scaled.schedule is not None
    assert scaled.schedule["config"]["values"] == pytest.approx([0.4, 0.04, 0.004])
    unread = OptimizerInfo(class_name="SGD", schedule=PIECEWISE)
    assert scale_learning_rate(unread, base_batch_size=1, batch_size=2).learning_rate == 0.2


@pytest.mark.parametrize(
    ("steps", "k", "expected"),
    [(10, 4, 3), (9, 4, 2), (1, 8, 1), (0, 8, 0), (100, 0.5, 200), (2.5, 1, 2.5), (7, 2, 4)],
)
def test_step_counts_round_half_up_and_stay_at_least_one(steps, k, expected):
    scaled, notes = scale_schedule(
        schedule("CosineDecay", initial_learning_rate=0.1, decay_steps=steps), 2.0, k
    )
    assert scaled["config"]["decay_steps"] == expected
    assert bool(notes) == (steps == 1)


def test_boundaries_that_fall_together_are_noted():
    scaled, notes = scale_schedule(
        schedule("PiecewiseConstantDecay", boundaries=[10, 11], values=[3.0, 2.0, 1.0]), 1.0, 10
    )
    assert scaled["config"]["boundaries"] == [1, 1]
    assert "two boundaries became one" in notes[0]


def test_a_custom_schedule_is_reported_and_what_it_holds_of_keras_is_scaled():
    custom = {
        "module": "train",
        "class_name": "WarmUp",
        "registered_name": "train>WarmUp",
        "config": {
            "initial_learning_rate": 0.1,
            "steps": [1, 2],
            "flag": True,
            "after": [COSINE],
        },
    }
    scaled, [note] = scale_schedule(custom, 4.0, 4)
    assert scaled["config"]["after"][0]["config"]["decay_steps"] == 250
    assert scaled["config"]["after"][0]["config"]["warmup_target"] == 0.4
    assert scaled["config"]["initial_learning_rate"] == 0.1
    assert "WarmUp is not a schedule of Keras" in note
    assert "initial_learning_rate=0.1, steps=[1, 2] could not" in note
    assert "flag" not in note


def test_a_custom_class_is_not_taken_for_its_namesake():
    namesake = {**COSINE, "module": "mine", "registered_name": "mine>CosineDecay"}
    scaled, notes = scale_schedule(namesake, 2.0, 2)
    assert scaled == namesake
    assert "could not be scaled" in notes[0]


def test_a_field_that_is_not_known_is_reported():
    future = schedule("CosineDecay", initial_learning_rate=0.1, decay_steps=10, floor=0.01)
    scaled, [note] = scale_schedule(future, 2.0, 2)
    assert (scaled["config"]["decay_steps"], scaled["config"]["floor"]) == (5, 0.01)
    assert "floor=0.01" in note


# Properties

RATES = st.floats(1e-8, 1e3)
SIZES = st.integers(1, 100_000)
NAMES = st.sampled_from([*KERAS_OPTIMIZERS, "MyOptimizer"])


@st.composite
def schedules(draw: st.DrawFn) -> dict:
    steps = st.integers(1, 100_000)
    shapes = [
        schedule(name, initial_learning_rate=draw(RATES), decay_steps=draw(steps), decay_rate=0.9)
        for name in ("ExponentialDecay", "InverseTimeDecay")
    ]
    boundaries = draw(st.lists(steps, min_size=1, max_size=4))
    values = [draw(RATES) for _ in range(len(boundaries) + 1)]
    return draw(
        st.sampled_from(
            [
                *shapes,
                schedule(
                    "PolynomialDecay",
                    initial_learning_rate=draw(RATES),
                    decay_steps=draw(steps),
                    end_learning_rate=draw(RATES),
                    power=0.5,
                    cycle=True,
                ),
                schedule("PiecewiseConstantDecay", boundaries=boundaries, values=values),
                schedule(
                    "CosineDecayRestarts",
                    initial_learning_rate=draw(RATES),
                    first_decay_steps=draw(steps),
                    t_mul=2.0,
                    m_mul=0.5,
                    alpha=0.1,
                ),
                COSINE,
            ]
        )
    )


@given(NAMES, RATES, SIZES, st.sampled_from(["auto", *RULES]), st.none() | schedules())
def test_the_same_size_is_the_identity(name, rate, size, rule, plan):
    info = OptimizerInfo(
        class_name=name, learning_rate=rate, schedule=plan, beta_1=0.9, beta_2=0.99, epsilon=1e-7
    )
    scaled = scale_learning_rate(info, base_batch_size=size, batch_size=size, rule=rule)
    assert (scaled.factor, scaled.learning_rate, scaled.schedule) == (1.0, rate, plan)
    assert scaled.hyperparameters == {}


@given(NAMES, RATES, SIZES, SIZES, st.sampled_from(RULES))
def test_there_and_back_is_the_identity(name, rate, one, other, rule):
    info = OptimizerInfo(class_name=name, learning_rate=rate)
    there = scale_learning_rate(info, base_batch_size=one, batch_size=other, rule=rule)
    back = scale_learning_rate(
        info,
        base_batch_size=other,
        batch_size=one,
        rule=rule,
        base_learning_rate=there.learning_rate,
    )
    assert back.learning_rate == pytest.approx(rate, rel=1e-12)
    assert math.isclose(there.factor * back.factor, 1, rel_tol=1e-12)


@given(RATES, SIZES, SIZES)
def test_the_fallback_changes_the_rate_no_more_than_the_linear_rule(rate, one, other):
    sqrt, linear = (scale_factor(rule, one, other) for rule in ("sqrt", "linear"))
    assert abs(math.log(sqrt)) <= abs(math.log(linear)) + 1e-12


@given(SIZES, SIZES)
def test_hyperparameters_stay_in_range(one, other):
    scaled = scale_learning_rate(ADAM, base_batch_size=one, batch_size=other).hyperparameters
    if scaled:
        assert 0 <= scaled["beta_1"] <= 1
        assert 0 <= scaled["beta_2"] <= 1
        assert scaled["epsilon"] > 0


@given(schedules(), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_schedules_scale_their_rates_keep_a_step_and_touch_nothing(plan, factor, k):
    before = copy.deepcopy(plan)
    scaled, notes = scale_schedule(plan, factor, k)
    assert not [note for note in notes if "could not" in note]
    assert plan == before
    assert scaled["config"].keys() == plan["config"].keys()
    for key, value in plan["config"].items():
        new = scaled["config"][key]
        assert new is not value or not isinstance(value, list)
        if key in ("decay_steps", "first_decay_steps", "boundaries", "warmup_steps"):
            counts = [v if isinstance(v, list) else [v] for v in (value, new)]
            for old, count in zip(*counts, strict=True):
                assert count >= 1
                assert count == int(count)
                assert count == 1 or abs(count - old / k) <= 0.5 + 1e-6
        elif key in ("values", "initial_learning_rate", "end_learning_rate", "warmup_target"):
            rates = [v if isinstance(v, list) else [v] for v in (value, new)]
            assert rates[1] == pytest.approx([rate * factor for rate in rates[0]])
        else:
            assert new == value


# Bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": "cubic"}, ["rule", "'cubic'", "linear"]),
        ({"batch_size": 0}, ["batch_size", "received 0", "at least 1"]),
        ({"base_batch_size": -3}, ["base_batch_size", "received -3"]),
        ({"batch_size": 1.5}, ["batch_size", "received 1.5"]),
        ({"batch_size": True}, ["batch_size", "received True"]),
        ({"base_learning_rate": 0}, ["base_learning_rate", "received 0", "positive"]),
        ({"base_learning_rate": -0.1}, ["base_learning_rate", "received -0.1"]),
        ({"base_learning_rate": math.nan}, ["base_learning_rate", "received nan"]),
        ({"base_learning_rate": math.inf}, ["base_learning_rate", "received inf"]),
    ],
)
def test_bad_arguments_say_argument_received_and_expected(changes, words):
    arguments = {"base_batch_size": 16, "batch_size": 32, **changes}
    with pytest.raises(UsageError) as caught:
        scale_learning_rate(SGD, **arguments)
    assert all(word in caught.value.message for word in words)


@pytest.mark.parametrize(
    "info",
    [
        OptimizerInfo(class_name="SGD"),
        OptimizerInfo(class_name="SGD", schedule=schedule("Custom", peak=0.1)),
        OptimizerInfo(class_name="SGD", learning_rate=-1.0),
        OptimizerInfo(class_name="SGD", learning_rate=math.nan),
    ],
)
def test_a_rate_that_cannot_be_scaled_is_an_error(info):
    with pytest.raises(UsageError, match="rate"):
        scale_learning_rate(info, base_batch_size=16, batch_size=32)


def test_a_base_rate_cannot_stretch_a_schedule_that_starts_at_zero():
    info = OptimizerInfo(class_name="SGD", learning_rate=0.0, schedule=COSINE)
    with pytest.raises(UsageError, match="left out"):
        scale_learning_rate(info, base_batch_size=16, batch_size=32, base_learning_rate=0.1)


def test_an_optimizers_own_zero_stays_zero_and_is_said():
    info = OptimizerInfo(class_name="SGD", learning_rate=0.0)
    scaled = scale_learning_rate(info, base_batch_size=16, batch_size=32)
    assert scaled.learning_rate == 0
    assert any("rate is 0" in sentence for sentence in scaled.advice)
    assert not [sentence for sentence in scaled.advice if "Warm up" in sentence]


@pytest.mark.parametrize(
    ("plan", "factor", "k"),
    [(COSINE, 0.0, 1.0), (COSINE, 1.0, math.inf), (COSINE, -1.0, 1.0), ({}, 2.0, 2.0)],
)
def test_a_schedule_needs_positive_factors_and_a_configuration(plan, factor, k):
    with pytest.raises(UsageError, match="must be"):
        scale_schedule(plan, factor, k)


# Against the real Keras

CHILD = """
import inspect, json, sys
import keras
from keras.optimizers import schedules
from autobatch.learning_rate import scale_schedule

K, STEPS = 4, range(0, 1601, 40)
built = [
    schedules.ExponentialDecay(0.1, 80, 0.9),
    schedules.ExponentialDecay(0.1, 80, 0.9, staircase=True),
    schedules.PiecewiseConstantDecay([200, 600, 1000], [0.1, 0.05, 0.01, 0.002]),
    schedules.PolynomialDecay(0.1, 800, end_learning_rate=0.01, power=0.5),
    schedules.PolynomialDecay(0.1, 400, end_learning_rate=0.01, power=2.0, cycle=True),
    schedules.InverseTimeDecay(0.1, 80, 0.5),
    schedules.InverseTimeDecay(0.1, 80, 0.5, staircase=True),
    schedules.CosineDecay(0.1, 1200, alpha=0.1),
    schedules.CosineDecay(0.0, 1200, alpha=0.1, warmup_target=0.1, warmup_steps=200),
    schedules.CosineDecayRestarts(0.1, 360, t_mul=2.0, m_mul=0.5, alpha=0.1),
    schedules.CosineDecayRestarts(0.1, 360, t_mul=1.0),
]
rows = []
for original in built:
    config = schedules.serialize(original)
    scaled, notes = scale_schedule(config, float(K), K)
    copy = schedules.deserialize(scaled)
    assert schedules.serialize(original) == config, original
    rows.append({
        "name": type(original).__name__,
        "notes": notes,
        "expected": [K * float(original(step)) for step in STEPS],
        "got": [float(copy(step // K)) for step in STEPS],
    })

def classes(module, base):
    return sorted(
        name for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    )

answer = {
    "rows": rows,
    "schedules": classes(schedules, schedules.LearningRateSchedule),
    "optimizers": classes(keras.optimizers, keras.optimizers.Optimizer),
    "version": keras.__version__,
}
open(sys.argv[1], "w").write(json.dumps(answer))
"""


@pytest.mark.tensorflow
def test_scaled_schedules_agree_with_keras(tmp_path):
    answer_file = tmp_path / "answer.json"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(answer_file)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(answer_file.read_text())
    for row in answer["rows"]:
        assert row["notes"] == [], row["name"]
        assert row["got"] == pytest.approx(row["expected"], rel=1e-4, abs=1e-6), row["name"]
    assert {row["name"] for row in answer["rows"]} == set(answer["schedules"])
    assert set(answer["schedules"]) <= learning_rate._SCHEDULES
    missing = set(answer["optimizers"]) - set(KERAS_OPTIMIZERS)
    assert not missing, f"Keras {answer['version']} has optimizers without a rule: {missing}"
