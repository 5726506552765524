"""The answer as values that other tools read: shell variables, YAML or TOML."""

from __future__ import annotations

import json
from typing import Any

from autobatch.bucket_records import BucketResult
from autobatch.records import ProbeResult

FORMATS = ("env", "yaml", "toml")


def values(result: ProbeResult, form: str) -> str:
    """The answer as lines of `NAME=value`, `name: value` or `name = value`.

    The batch size, what the script trained with, and the learning rates where there are any. Of a
    model with several optimizers, the others' rates carry their attribute's name.

    Args:
        result: What the probe found.
        form: `env` (upper-case names, for a shell's `eval` or a .env file), `yaml` or `toml`.
    """
    named = {
        "batch_size": result.batch_size,
        "base_batch_size": result.base_batch_size,
        "learning_rate": result.learning_rate,
        "base_learning_rate": result.base_learning_rate,
        "learning_rate_rule": result.learning_rate_rule,
    }
    for rate in result.learning_rates[1:]:
        named[f"{_name(rate.optimizer)}_learning_rate"] = rate.learning_rate
    return "\n".join(_line(n, v, form) for n, v in named.items() if v is not None)


def bucket_values(result: BucketResult, form: str) -> str:
    """The same of buckets: their boundaries and sizes, lists in YAML and TOML and separated by
    commas for a shell."""
    named = {
        "bucket_boundaries": list(result.boundaries),
        "bucket_batch_sizes": list(result.batch_sizes),
        "mean_batch_size": result.mean_batch_size,
        "base_batch_size": result.base_batch_size,
        "learning_rate": result.learning_rate,
        "base_learning_rate": result.base_learning_rate,
        "learning_rate_rule": result.learning_rate_rule,
    }
    return "\n".join(_line(n, v, form) for n, v in named.items() if v is not None)


def _line(name: str, value: Any, form: str) -> str:
    if form == "env":
        value = ",".join(map(str, value)) if isinstance(value, list) else value
        return f"{name.upper()}={value}"
    written = json.dumps(value)  # numbers and texts look alike in all three
    if isinstance(value, float) and form == "yaml" and "e" in written and "." not in written:
        written = written.replace("e", ".0e")  # else YAML 1.1 takes 1e-05 for a text
    return f"{name}: {written}" if form == "yaml" else f"{name} = {written}"


def _name(attribute: str) -> str:
    """An optimizer's attribute, such as `d_optimizer` or `optimizers['d']`, as part of a name."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in attribute)
    return "_".join(part for part in plain.split("_") if part).lower()
