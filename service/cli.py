"""The command line: thin commands, one place where errors become messages and exit codes.

A command imports what it needs when it runs, so that help and configuration checks never wait for torch.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service import __version__
from service.errors import ConfigurationError, Fenced, PenstockError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The application's YAML file.", show_default=False)]


class ErrorBoundary(TyperGroup):
    """Ends every command that raises on purpose with one message on standard error and the exit code of its kind."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            else:
                print(error, file=sys.stderr)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(130) from interrupt


def exit_code(error: PenstockError) -> int:
    match error:
        case ConfigurationError():
            return 2
        case Fenced():
            return 3
        case _:
            return 1


main = typer.Typer(
    name="penstock",
    cls=ErrorBoundary,
    help="Exactly-once stream processing of sensor topics with PyTorch networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config = typer.Typer(help="Check, show and describe configurations, without connecting to anything.", no_args_is_help=True)
main.add_typer(config, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"penstock {__version__}")
        raise typer.Exit


@main.callback()
def penstock(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What all commands have in common."""


@config.command("check")
def config_check(path: ConfigFile) -> None:
    """Validate a configuration and the files that it names."""
    from service.config import load

    settings = load(path)
    print(f"{path}: valid; {settings.app} reads {settings.input.topic} and writes {settings.output.topic}")


@config.command("show")
def config_show(path: ConfigFile) -> None:
    """Print the effective settings, defaults included, with secrets redacted."""
    import yaml

    from service.config import load, shown

    print(yaml.safe_dump(shown(load(path)), sort_keys=False, allow_unicode=True), end="")


@config.command("schema")
def config_schema(
    path: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="Not read: the schema is the same for all.")] = None,
) -> None:
    """Print the JSON Schema of configurations, for editors."""
    import json

    from service.config import Config

    print(json.dumps(Config.model_json_schema(), indent=2))
