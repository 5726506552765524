"""The learning rate that goes with another batch size. Pure arithmetic, with its sources.

With k = batch_size / base_batch_size a rate is multiplied by a factor:

    linear  k        Goyal et al. 2017, arXiv:1706.02677
    sqrt    sqrt(k)  Krizhevsky 2014, arXiv:1404.5997; Malladi et al. 2022, arXiv:2205.10287
    none    1        the optimizer sizes its steps by itself, or the user said so

Malladi et al. (definitions 5.2 and 5.3) scale more than the rate: beta becomes 1 - k (1 - beta)
for Adam's two and for RMSprop's rho, and epsilon becomes epsilon / sqrt(k). That exists only
while k (1 - beta) stays below 1; beyond, beta is cut to 0 and the advice says so.

An optimizer that is not in the table gets the square root: it changes the rate less than the
linear rule, upwards and downwards, and a warning says that this was a guess.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from autobatch.errors import UsageError
from autobatch.records import LearningRate, OptimizerInfo

RULES = ("linear", "sqrt", "none")
_Change = Callable[[float], float]

GOYAL_LIMIT = 8192  # images a batch, up to which Goyal et al. 2017 lost no accuracy

_LINEAR = "the linear rule was found and tested with it (Goyal et al. 2017, arXiv:1706.02677)"
_SQRT = "the square root keeps its noise (Malladi et al. 2022, arXiv:2205.10287)"
_KIN = "no rule was derived for it; the square root is taken over from"

# By lower-case class name: Keras's own, and the best known of other packages.
_RULES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("sgd", "sgdw"), ("linear", _LINEAR)),
    **dict.fromkeys(("adam", "adamw", "adamweightdecay", "rmsprop"), ("sqrt", _SQRT)),
    "adamax": ("sqrt", f"{_KIN} Adam, of which it is the infinity-norm form"),
    "nadam": ("sqrt", f"{_KIN} Adam, of which it is the Nesterov form"),
    "schedulefreeadamw": ("sqrt", f"{_KIN} AdamW, whose second moment it shares"),
    # Its steps grow with k unasked, since the sum of squares then grows more slowly.
    "adagrad": ("sqrt", f"{_KIN} RMSprop; the careful alternative is the rule `none`"),
    "ftrl": ("sqrt", f"{_KIN} Adagrad's kin; the careful alternative is the rule `none`"),
    "adadelta": ("sqrt", f"{_KIN} RMSprop, which it resembles at a rate set by hand"),
    "lion": ("sqrt", f"{_KIN} Adam, whose steps too hardly depend on the gradient's size"),
    "muon": ("sqrt", f"{_KIN} Adam, whose steps Keras's Muon matches in size"),
    "lamb": ("sqrt", "its authors scale it so, with warm-up (You et al. 2019, arXiv:1904.00962)"),
    "lars": ("sqrt", f"{_KIN} LAMB, its successor"),
    "adafactor": (
        "none",
        "its steps are relative to the weights and clipped, and Keras caps its rate at "
        "1/sqrt(step) (Shazeer and Stern 2018, arXiv:1804.04235)",
    ),
}
_ADADELTA_AT_1 = "at the rate 1 it sets its own step size (Zeiler 2012, arXiv:1212.5701)"
_WRAPPERS = {"lossscaleoptimizer", "multioptimizer"}

# What else the square-root rule scales: our field -> Keras's name. ScheduleFreeAdamW's beta_1
# weighs an average of weights, not of gradients; Lion, Muon and LAMB were not part of the proof.
_ADAM = {"beta_1": "beta_1", "beta_2": "beta_2", "epsilon": "epsilon"}
_HYPERPARAMETERS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("adam", "adamw", "adamweightdecay", "adamax", "nadam"), _ADAM),
    "schedulefreeadamw": {"beta_2": "beta_2", "epsilon": "epsilon"},
    "rmsprop": {"beta_2": "rho", "epsilon": "epsilon"},
}

_SCHEDULES = {
    "ExponentialDecay", "PiecewiseConstantDecay", "PolynomialDecay", "InverseTimeDecay",
    "CosineDecay", "CosineDecayRestarts",
}  # fmt: skip
_RATES = {"initial_learning_rate", "end_learning_rate", "warmup_target", "values"}
_STEPS = {"decay_steps", "first_decay_steps", "warmup_steps", "boundaries"}
_SHAPES = {"decay_rate", "alpha", "power", "t_mul", "m_mul"}  # fractions and forms: they stay


def rule_for(optimizer: OptimizerInfo) -> tuple[str, str]:
    """The rule for an optimizer, and the reason in a sentence.

    Of a wrapper such as `LossScaleOptimizer`, pass what it wraps.
    """
    return _rule_for(optimizer, optimizer.learning_rate)


def _rule_for(optimizer: OptimizerInfo, rate: float | None) -> tuple[str, str]:
    name = _plain_name(optimizer)
    if name == "adadelta" and rate == 1:
        rule, why = "none", _ADADELTA_AT_1
    elif name in _WRAPPERS:
        rule, why = "sqrt", "it wraps others, whose rules count; unknown here, the square root"
    else:
        rule, why = _RULES.get(name, ("sqrt", "no rule for it is known; the square root, a guess"))
    return rule, f"{optimizer.class_name}: {why}."


def _plain_name(optimizer: OptimizerInfo) -> str:
    return optimizer.class_name.rpartition(">")[2].lower()  # registered as "package>Name"


def scale_factor(rule: str, base_batch_size: int, batch_size: int) -> float:
    """What a rate is multiplied by when the batch goes from one size to the other.

    Raises:
        UsageError: The rule is unknown, or a size is below 1.
    """
    if rule not in RULES:
        raise UsageError(f"rule must be one of {', '.join(RULES)}; received {rule!r}.")
    for argument, size in (("base_batch_size", base_batch_size), ("batch_size", batch_size)):
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise UsageError(f"{argument} must be a whole number, at least 1; received {size!r}.")
    k = batch_size / base_batch_size
    return {"linear": k, "sqrt": math.sqrt(k), "none": 1.0}[rule]


def scale_learning_rate(
    optimizer: OptimizerInfo,
    *,
    base_batch_size: int,
    batch_size: int,
    rule: str = "auto",
    base_learning_rate: float | None = None,
) -> LearningRate:
    """The optimizer's learning rate for `batch_size`, with the reason and what to mind.

    Args:
        optimizer: What the rate belongs to; not a wrapper, but what it wraps.
        base_batch_size: The size that the base rate was chosen for; global, with replicas.
        batch_size: The size to scale to; global, with replicas.
        rule: `auto` (the optimizer's, see `rule_for`), `linear`, `sqrt` or `none`.
        base_learning_rate: Defaults to the optimizer's. A schedule is stretched as a whole so
            that it starts there.

    Raises:
        UsageError: An argument makes no sense, or there is no base rate. A base rate of 0 is
            refused where it was given; an optimizer's own 0 (a warm-up callback will set it) and
            a schedule's start of 0 stay 0.
    """
    if rule not in ("auto", *RULES):
        raise UsageError(f"rule must be one of auto, {', '.join(RULES)}; received {rule!r}.")
    base_rate, stretch = _base_rate(optimizer, base_learning_rate)
    auto, reason = _rule_for(optimizer, base_rate)
    if rule not in ("auto", auto):
        reason = f"The rule {rule!r} was asked for; by itself autobatch takes {auto!r}. {reason}"
    rule = auto if rule == "auto" else rule
    factor = scale_factor(rule, base_batch_size, batch_size)
    k = batch_size / base_batch_size
    schedule: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    if optimizer.schedule is not None:
        schedule, notes = scale_schedule(optimizer.schedule, factor * stretch, k)
    hyperparameters, limits = _hyperparameters(optimizer, rule, k)
    rate = base_rate * factor
    return LearningRate(
        optimizer=optimizer.attribute,
        rule=rule,
        reason=reason,
        factor=factor,
        base_batch_size=int(base_batch_size),
        batch_size=int(batch_size),
        base_learning_rate=base_rate,
        learning_rate=rate,
        schedule=schedule,
        hyperparameters=hyperparameters,
        advice=(*_advice(optimizer, rule, base_rate, rate, k, batch_size), *limits, *notes),
    )


def _base_rate(optimizer: OptimizerInfo, given: float | None) -> tuple[float, float]:
    """The rate to scale from, and how many times the optimizer's own that is."""
    own = _own_rate(optimizer)
    if given is None:
        if own is None:
            raise UsageError(
                f"base_learning_rate must be given where the rate of {optimizer.attribute} "
                f"({optimizer.class_name}) cannot be read; received None."
            )
        return own, 1.0
    rate = _require_positive("base_learning_rate", given)
    if optimizer.schedule is None:
        return rate, 1.0
    if not own:
        raise UsageError(
            f"base_learning_rate must be left out where a schedule starts at 0 or at an unknown "
            f"rate, since it is then scaled as it is; received {given!r}."
        )
    return rate, rate / own


def _own_rate(optimizer: OptimizerInfo) -> float | None:
    own: Any = optimizer.learning_rate
    if own is None and optimizer.schedule is not None:
        config = optimizer.schedule.get("config") or {}
        own = config.get("initial_learning_rate", (config.get("values") or [None])[0])
    if not _is_number(own):
        return None
    return _require_positive(f"{optimizer.attribute}.learning_rate", own) if own else 0.0


def _hyperparameters(
    optimizer: OptimizerInfo, rule: str, k: float
) -> tuple[dict[str, float], list[str]]:
    scaled: dict[str, float] = {}
    advice: list[str] = []
    if rule != "sqrt" or k == 1:
        return scaled, advice
    for field, name in _HYPERPARAMETERS.get(_plain_name(optimizer), {}).items():
        value: float | None = getattr(optimizer, field)
        if value is None:
            if name == "rho":
                advice.append(f"RMSprop's rho goes with the rate: 1 - {k:.4g} (1 - rho).")
        elif name == "epsilon":
            scaled[name] = value / math.sqrt(k)
        else:
            forgotten = k * (1 - value)
            beyond = forgotten > 1 - 1e-9  # what a rounding error would remember is nothing
            scaled[name] = 0.0 if beyond else 1 - forgotten
            if beyond and value > 0:
                advice.append(
                    f"The square-root rule does not reach this far: k (1 - {name}) = "
                    f"{forgotten:.4g} is not below 1, so {name} was cut to 0."
                )
    if scaled:
        advice.insert(
            0,
            f"The square-root rule also scales {', '.join(scaled)} (Malladi et al. 2022); the "
            f"rate alone is only part of it.",
        )
    return scaled, advice


def _advice(
    optimizer: OptimizerInfo, rule: str, base_rate: float, rate: float, k: float, batch_size: int
) -> list[str]:
    advice = []
    name = _plain_name(optimizer)
    if rule == "sqrt" and name not in _RULES:
        advice.append(
            f"Warning: the rule for {optimizer.class_name} is a guess; the square root changes "
            f"the rate less than the linear rule."
        )
    if rate == 0 and optimizer.schedule is None:
        advice.append("The optimizer's rate is 0, and stays so: give the base rate that is meant.")
    if k == 1:
        return advice
    warms_up = ((optimizer.schedule or {}).get("config") or {}).get("warmup_steps")
    if rule == "linear" and k > 1 and rate and not warms_up:
        advice.append(
            f"Warm up: raise the rate from {base_rate:.4g} to {rate:.4g} over the first 5 epochs "
            f"(Goyal et al. 2017)."
        )
    if rule == "linear" and k > 1 and batch_size > GOYAL_LIMIT:
        advice.append(
            f"The linear rule is known to hold to about {GOYAL_LIMIT} images a batch; above, "
            f"accuracy fell (Goyal et al. 2017)."
        )
    if rule != "none":
        advice.append(
            "No rule holds for every model and data set: take the rate as a start for tuning "
            "(Shallue et al. 2019, arXiv:1811.03600)."
        )
    advice.append(
        "A larger batch does not generalise better by itself (Keskar et al. 2017, "
        "arXiv:1609.04836)."
        if k > 1
        else f"An epoch now takes {1 / k:.4g} times as many steps."
    )
    if name == "schedulefreeadamw":
        advice.append(f"Divide its warmup_steps, if it has any, by {k:.4g}.")
    return advice


def scale_schedule(
    schedule: dict[str, Any], factor: float, k: float
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keras's serialized schedule for a batch k times as large, and notes on what is not exact.

    Every rate in it is multiplied by `factor`; step counts are divided by k, rounded half up and
    at least 1 (0 steps of warm-up stay 0). Fractions and forms stay. Of a class that is not
    Keras's own, only Keras's schedules inside it are scaled, and a note names the rest.

    Raises:
        UsageError: It is no serialized schedule, or a factor is not positive and finite.
    """
    _require_positive("factor", factor)
    _require_positive("k", k)
    if not _is_serialized(schedule):
        raise UsageError(
            f"schedule must be as Keras serializes one, {{'class_name': ..., 'config': {{...}}}}; "
            f"received {schedule!r}."
        )
    scaled = copy.deepcopy(schedule)
    notes: list[str] = []
    if factor != 1 or k != 1:
        _scale_config(scaled, factor, k, notes)
    return scaled, tuple(notes)


def _scale_config(schedule: dict[str, Any], factor: float, k: float, notes: list[str]) -> None:
    """Scales our own copy in place."""
    name, config = schedule["class_name"], schedule["config"]
    package = str(schedule.get("module") or "keras").partition(".")[0]
    known = name in _SCHEDULES and package in ("keras", "tf_keras", "tensorflow")
    left: list[str] = []

    def to_rate(rate: float) -> float:
        return rate * factor

    def to_steps(count: float) -> float:
        if k == 1 or count <= 0 or not math.isfinite(count):
            return count
        if count / k < 0.5:
            notes.append(f"{name}: {count:g} steps would be less than half a step; 1 is kept.")
        return max(1, math.floor(count / k + 0.5))

    def nested(inner: dict[str, Any]) -> None:
        _scale_config(inner, factor, k, notes)

    for key, value in config.items():
        change: _Change | None = None
        if known:
            change = to_rate if key in _RATES else to_steps if key in _STEPS else None
        if change is None and _holds_numbers(value) and not (known and key in _SHAPES):
            left.append(f"{key}={value!r}")
        config[key] = _changed(value, change, nested)
        if change is to_steps and _distinct(config[key]) < _distinct(value):
            notes.append(f"{name}: two boundaries became one, so a value is passed over.")
    if left or not known:
        whose = "" if known else " is not a schedule of Keras"
        notes.append(
            f"{name}{whose}: {', '.join(left) or 'what it computes'} could not be scaled; multiply "
            f"its rates by {factor:.4g} and divide its step counts by {k:.4g}."
        )


def _changed(value: Any, change: _Change | None, nested: Callable[[dict[str, Any]], None]) -> Any:
    """The value with its numbers changed, if there is a `change`, and inner schedules scaled."""
    if _is_number(value):
        return change(value) if change else value
    if isinstance(value, (list, tuple)):
        return [_changed(item, change, nested) for item in value]
    if _is_serialized(value):
        nested(value)
    return value


def _holds_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_numbers(item) for item in value)
    return _is_number(value)


def _distinct(value: Any) -> int:
    return len({str(item) for item in value}) if isinstance(value, (list, tuple)) else 1


def _is_serialized(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_name"), str)
        and isinstance(value.get("config"), dict)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_positive(argument: str, value: Any) -> float:
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        raise UsageError(f"{argument} must be a positive, finite number; received {value!r}.")
    return float(value)
