"""The command line: `motet serve`, `adapters`, `keys`, `top`, `complete`, `check`, `bench`,
`train-router` and `import-router`.

Owns: which commands there are.
Does not know: their options and how anything is done; each is a module of its own.
"""

from __future__ import annotations

import typer

from motet.server import (
    bench_command,
    check,
    import_command,
    keys_command,
    remote,
    remote_adapters,
    serve_command,
    top,
    train_router_command,
)

app = typer.Typer(
    help="Motet serves thousands of LoRA adapters over one base model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would show keys
)
adapters_app = typer.Typer(help="List, load, switch, pin and delete adapters of a running server.")

app.command("serve")(serve_command.serve)
app.add_typer(adapters_app, name="adapters", no_args_is_help=True)
adapters_app.command("list")(remote_adapters.list_adapters)
adapters_app.command("load")(remote_adapters.load_adapter)
adapters_app.command("alias")(remote_adapters.point_alias)
adapters_app.command("rollback")(remote_adapters.roll_back)
adapters_app.command("pin")(remote_adapters.pin_adapter)
adapters_app.command("unpin")(remote_adapters.unpin_adapter)
adapters_app.command("delete")(remote_adapters.delete_adapter)
keys_app = typer.Typer(help="Make, list and revoke keys in a file that a server follows.")
app.add_typer(keys_app, name="keys", no_args_is_help=True)
keys_app.command("create")(keys_command.create)
keys_app.command("list")(keys_command.list_keys)
keys_app.command("revoke")(keys_command.revoke)
app.command("top")(top.top)
app.command("complete")(remote.complete)
app.command("check")(check.check)
bench_app = typer.Typer(help="Put a workload on a server, and see what came of it.")
app.add_typer(bench_app, name="bench", no_args_is_help=True)
bench_app.command("run")(bench_command.run)
bench_app.command("report")(bench_command.report)
bench_app.command("workloads")(bench_command.workloads)
app.command("import-router")(import_command.import_router)
app.command("train-router")(train_router_command.train_router)


def main() -> None:
    """The `motet` program."""
    app()


if __name__ == "__main__":
    main()
