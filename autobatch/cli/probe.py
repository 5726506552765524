"""`autobatch probe`."""

from __future__ import annotations

from typing import Any

import click

from autobatch.cli.options import given, output_options, probe_options
from autobatch.cli.output import failing, require_output, show
from autobatch.cli.watching import ended_by_signals, watching

EXIT_CODES = """Exit codes: 0 found; 1 a file could not be written; 2 wrong usage; 3 nothing fits;
4 the model failed; 5 no usable device; 6 trials died for an unknown reason; 7 the device changed;
130 interrupted."""


@click.command(epilog=EXIT_CODES)
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]")
@probe_options()
@output_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["env", "yaml", "toml"]),
    help="Print the values alone on stdout, as BATCH_SIZE=259, batch_size: 259 or batch_size = "
    "259.  [default: as text]",
)
def probe(
    target: str,
    arguments: tuple[str, ...],
    as_json: bool,
    form: str | None,
    output: str | None,
    quiet: bool,
    verbose: bool,
    log_file: str | None,
    **options: Any,
) -> None:
    """Find the largest safe batch size of TARGET, and prove it in a fresh process.

    TARGET is a training script as it is (train.py: run up to its model.fit), a function that
    returns a model (model.py:build_model, package.module:factory), a file with a build_model,
    or a saved model (model.keras). ARGUMENTS reach the script.

    The answer goes to stdout, everything else to stderr. TARGET's code runs with your rights. A
    script that buckets its data by length gets a size for each bucket, as from autobatch buckets.

    \b
    autobatch probe train.py
    autobatch probe train.py --memory-limit 6GiB -- --data big
    autobatch probe model.py:build_model --json > result.json
    eval "$(autobatch probe train.py --format env)"
    """
    if as_json and form:
        raise click.UsageError("--json and --format both say what goes to stdout; leave one out.")
    with failing(as_json=as_json, verbose=verbose, output=output):
        require_output(output)
        with watching(quiet, verbose, log_file) as observer, ended_by_signals():
            from autobatch.as_trained import find_sizes
            from autobatch.bucket_options import ONE_SIZE
            from autobatch.report.answers import found, page, values

            result = find_sizes(target, arguments=arguments, observer=observer, **given(options))
    command = None
    if not any(each.startswith(ONE_SIZE) for each in result.warnings):  # which run refuses
        command = _to_train(target, arguments, given(options))
    show(
        result,
        lambda **look: page(result, command=command, **look),
        found=found(result),
        as_json=as_json,
        quiet=quiet,
        values=values(result, form) if form is not None else None,
        output=output,
    )


def _to_train(target: str, arguments: tuple[str, ...], options: dict[str, Any]) -> str | None:
    """The command that trains with the answer; None where the target is no script that calls fit.

    Args:
        target, arguments: What was probed; the arguments are not repeated.
        options: With what, as keywords of `probe`.
    """
    import re
    import shlex
    from pathlib import Path

    from autobatch.errors import AutobatchError
    from autobatch.options import FLAGS
    from autobatch.run_plan import require_script

    try:
        require_script(target)
        calls_fit = re.search(rb"\.fit\(", Path(target).read_bytes())
        if not calls_fit or options.get("run_as") == "module":
            return None
    except (AutobatchError, OSError):
        return None
    words = ["autobatch", "run", target]
    for name, value in options.items():
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        if name in ("journal", "resume"):
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            shapes = {
                f"{key}={','.join(map(str, each))}".lstrip("=") for key, each in value.items()
            }
            words += [word for shape in sorted(shapes) for word in (flag, shape)]
        else:
            words += [flag, str(value)]
    # The script's own arguments may be secrets, and what we say may lie in a log for long.
    return shlex.join(words) + (" -- ..." if arguments else "")
