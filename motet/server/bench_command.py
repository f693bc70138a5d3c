"""`motet bench run`, `report` and `workloads`: load on a server, and what came of it.

Owns: their options, and what they print.
Does not know: how anything is done (`motet/bench/`). What needs the packages of the extra `bench`
is imported only when it runs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from motet.bench.record import Run, Slo, read_run
from motet.bench.target import Endpoint, PromptForm, Target
from motet.bench.workload import Workload, encode_workload, read_workload
from motet.server.bench_table import print_outcome, print_workload, print_workloads
from motet.server.remote_http import DEFAULT_URL, ApiKeyOption, UrlOption, fail

if TYPE_CHECKING:
    from motet.bench.measures import Summary
    from motet.bench.run import RunOptions

_KEY_OPTIONS = ("--api-key", "--metrics-key")
_EXTRA_PACKAGES = ("httpx2", "matplotlib")

DEFAULT_SEED = 42  # S-LoRA's

WorkloadArgument = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD", help="Its name, or a file that `motet bench workloads` wrote."
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="NAME=VALUE", help="A parameter of the workload; may be repeated."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Equal seeds give equal workloads.")]


def run(
    workload: WorkloadArgument,
    url: UrlOption = DEFAULT_URL,
    param: ParamOption = None,
    seed: SeedOption = DEFAULT_SEED,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the folder with the results is made.")
    ] = Path("results"),
    label: Annotated[str, typer.Option(help="What the report calls this run.")] = "run",
    ttft_slo: Annotated[
        float, typer.Option(min=0, metavar="S", help="The first token is promised in so long.")
    ] = 6.0,
    itl_slo: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="S",
            help="Mean time between tokens that is promised.",
            show_default="nothing is promised",
        ),
    ] = None,
    fail_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Exit with status 1 if less than this share of requests is within what is "
            "promised.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="A closed loop: N clients, each asking again when it was answered.",
            show_default="an open loop: requests are sent at their times",
        ),
    ] = None,
    warm_up: Annotated[
        int, typer.Option(min=0, metavar="N", help="Requests that go ahead and are not recorded.")
    ] = 0,
    endpoint: Annotated[Endpoint, typer.Option(help="Of OpenAI's.")] = Endpoint.COMPLETIONS,
    prompts: Annotated[
        PromptForm,
        typer.Option(
            help="text: words, about one token each. tokens: ids, exact, from the server's "
            "/tokenize. repeated: S-LoRA's one word, which a prefix cache knows by heart."
        ),
    ] = PromptForm.TEXT,
    exact_length: Annotated[
        bool,
        typer.Option(help="Ask for answers of exact length by ignore_eos, which not all know."),
    ] = True,
    model_template: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Names of models for adapters that are not served under their own; {index} and "
            "{name} are replaced.",
            show_default="the served adapters in turn",
        ),
    ] = None,
    request_timeout: Annotated[
        float, typer.Option(min=0, metavar="S", help="A request is given up after so long.")
    ] = 600.0,
    sample_interval: Annotated[
        float, typer.Option(min=0.05, metavar="S", help="Between looks at the server's /metrics.")
    ] = 1.0,
    prompt_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of the words of prompts. Equal ones are in the server's prefix cache the second "
            "time.",
            show_default="a new one each time",
        ),
    ] = None,
    api_key: ApiKeyOption = None,
    metrics_key: Annotated[
        str | None,
        typer.Option(
            envvar="MOTET_ADMIN_KEY", help="Key for /metrics.", show_default="the other key"
        ),
    ] = None,
    tenant_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT=SOURCE",
            help="Key of a tenant of the workload: the name of a variable of the environment, or "
            "of a file, that has it; may be repeated.",
        ),
    ] = None,
) -> None:
    """Play a workload against a server, and write what came of it, with a report."""
    with _errors_end_the_program():
        from motet.bench.run import RunOptions

        target = Target(
            url=url,
            endpoint=endpoint,
            prompts=prompts,
            exact_length=exact_length,
            template=model_template,
            api_key=api_key,
            tenant_keys=_tenant_keys(tenant_key or ()),
            metrics_key=metrics_key,
        )
        options = RunOptions(
            label=label,
            slo=Slo(ttft_s=ttft_slo, itl_s=itl_slo),
            num_clients=concurrency,
            num_warm_up=warm_up,
            limit_s=request_timeout,
            sample_interval_s=sample_interval,
            **({} if prompt_seed is None else {"prompt_seed": prompt_seed}),
            settings={"command": _command(sys.argv[1:])},
        )
        done, summary = _run(_workload(workload, param or (), seed), target, options, out)
    if fail_below is not None and (summary.attainment or 0.0) < fail_below:
        fail(
            f"{summary.attainment or 0.0:.1%} of requests were within what was promised, less than "
            f"{fail_below:.1%}."
        )
    if done.info.settings["interrupted"]:
        raise typer.Exit(130)


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR [DIR]", help="Folders of results: one, or two side by side."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the page is written.",
            show_default="report.html in the folder, or FIRST-and-SECOND.html beside the first",
        ),
    ] = None,
) -> None:
    """Write the report of a run anew, or that of two runs side by side."""
    if len(directories) > 2:
        fail(f"{len(directories)} folders were given: expected one or two.")
    with _errors_end_the_program():
        from motet.bench.report import write_report

        path = _report_path(directories) if out is None else out
        write_report([read_run(each) for each in directories], path)
    typer.echo(path)


def workloads(
    name: Annotated[
        str | None, typer.Argument(help="Show this one's parameters.", show_default="list all")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw it, and write it there as JSON lines.", show_default=False
        ),
    ] = None,
    param: ParamOption = None,
    seed: SeedOption = DEFAULT_SEED,
) -> None:
    """List the workloads, show the parameters of one, or write one to a file."""
    with _errors_end_the_program():
        if out is not None and name is not None:
            out.write_bytes(encode_workload(_workload(name, param or (), seed)))
        elif name is not None:
            print_workload(Console(), name)
        elif out is not None:
            raise ValueError("--out needs the name of a workload.")
        else:
            print_workloads(Console())


def _run(workload: Workload, target: Target, options: RunOptions, out: Path) -> tuple[Run, Summary]:
    from motet.bench.journal import Journal
    from motet.bench.progress import shown_progress
    from motet.bench.report import write_report
    from motet.bench.results import REPORT_FILE, results_folder, write_results
    from motet.bench.run import run_workload

    console = Console(stderr=True)
    journal = Journal()
    with results_folder(out, workload.name, options.label, datetime.now()) as (folder, final):
        with shown_progress(console, journal, len(workload.requests)):
            done = run_workload(workload, target, options, journal)
        summary = write_results(folder, workload, done)
    print_outcome(Console(), done, summary)
    write_report([done], final / REPORT_FILE)
    typer.echo(final / REPORT_FILE)
    return done, summary


def _workload(name_or_file: str, params: Sequence[str], seed: int) -> Workload:
    """Drawn by its name, or read from a file. Raises ValueError or OSError."""
    from motet.bench.named import make_workload

    path = Path(name_or_file)
    if not path.is_file():
        return make_workload(name_or_file, _pairs(params, "--param NAME=VALUE"), seed)
    if params:
        raise ValueError(f"{path} is a workload that was drawn: --param does not apply to it.")
    return read_workload(path)


def _command(arguments: Sequence[str]) -> str:
    """The command as it can be given again, without its keys."""
    shown = ["motet"]
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, equals, _ = argument.partition("=")
        if before in _KEY_OPTIONS:
            shown.append("…")
        elif option in _KEY_OPTIONS and equals:
            shown.append(f"{option}=…")
        else:
            shown.append(argument)
    # Bytes that are no text, which a path may have, could not be written as JSON.
    return shlex.join(shown).encode(errors="replace").decode()


def _tenant_keys(texts: Sequence[str]) -> dict[str, str]:
    """Keys by tenant. Raises ValueError for a source that there is not."""
    sources = _pairs(texts, "--tenant-key TENANT=SOURCE")
    return {tenant: _key_from(tenant, source) for tenant, source in sources.items()}


def _key_from(tenant: str, source: str) -> str:
    if (value := os.environ.get(source)) is not None:
        return value
    try:
        return Path(source).read_text().strip()
    except (OSError, ValueError):
        # What was given may be the key itself, so it is not repeated.
        raise ValueError(
            f"The key of tenant {tenant} is neither in the environment nor in a file that can be "
            "read: --tenant-key takes the name of a variable or of a file, not the key."
        ) from None


def _pairs(texts: Sequence[str], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in pairs:
            raise ValueError(f"Expected {form}, each name once; {name!r} is not given so.")
        pairs[name] = value
    return pairs


def _report_path(directories: Sequence[Path]) -> Path:
    from motet.bench.results import REPORT_FILE

    first, *others = directories
    if not others:
        return first / REPORT_FILE
    return first.resolve().parent / f"{first.resolve().name}-and-{others[0].resolve().name}.html"


@contextlib.contextmanager
def _errors_end_the_program() -> Iterator[None]:
    """What a user can do something about is said, and is the end with status 1."""
    try:
        from motet.bench.server import ServerError
    except ModuleNotFoundError as error:
        _fail_without(error)
    try:
        yield
    except ModuleNotFoundError as error:
        _fail_without(error)
    except (ServerError, ValueError, OSError) as error:
        fail(str(error))


def _fail_without(error: ModuleNotFoundError) -> NoReturn:
    if error.name is None or error.name.partition(".")[0] not in _EXTRA_PACKAGES:
        raise error
    fail(f"`motet bench` needs {error.name}, which is not installed: pip install 'motet[bench]'.")
