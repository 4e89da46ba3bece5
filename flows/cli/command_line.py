"""What the commands of `dr` share: their arguments, errors in one line, and how a flow is run
from a terminal.
"""

import functools
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.printing import print_summary

if TYPE_CHECKING:
    from flows.config import PipelineConfig
    from storage import Workspace

Config = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="CONFIG.toml",
        help=(
            "The pipeline's configuration, or the name of a profile that comes with dr, such as"
            " demo or kaggle."
        ),
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Overrides one key of the configuration; may be given many times.",
    ),
]
DaskAddress = Annotated[
    str,
    typer.Option(
        metavar="tcp://HOST:PORT",
        help="A running Dask scheduler; by default workers start here, one a core.",
    ),
]
RetrySetAside = Annotated[
    bool,
    typer.Option(
        "--retry-set-aside",
        help=(
            "Try once more what preprocess and attribute set aside earlier; the same as --set"
            " storage.retry_set_aside=true."
        ),
    ),
]
Location = Annotated[
    str,
    typer.Argument(
        metavar="WORKSPACE", help="The workspace: a folder or a URL such as s3://bucket/prefix."
    ),
]


def fail(message: str, code: int) -> typer.Exit:
    """Prints what is wrong, one line for each mistake; raising the result ends the command with
    the exit code `code`.
    """
    for line in message.splitlines() or [""]:
        typer.echo(f"dr: {line}", err=True)
    return typer.Exit(code)


def one_line_errors(command: Callable) -> Callable:
    """The command, with every error a person can mend told in one line instead of a stack trace.

    Its help is its docstring, whose paragraphs the terminal wraps anew.
    """
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(text.split()) for text in paragraphs)

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise fail(
                "stopped; what is finished is kept, and the same command goes on from there", 130
            ) from None
        except typer.Exit:
            raise
        except Exception as last:
            error = _first_error(last)
            if any(_of_httpx(cause, "TransportError") for cause in (error, error.__cause__)):
                message = (
                    "the Prefect server no longer answers; what is finished is kept: start it, or"
                    " unset PREFECT_API_URL, and run the same command again"
                )
                raise fail(message, 1) from None
            code = _exit_code(error)
            if code is None:
                raise last  # a fault of ours: the stack trace is what a report of it needs
            raise fail(str(error), code) from None

    return run


def _first_error(error: Exception) -> Exception:
    """The error that ended the run, where Prefect's client failed only when it reported that
    one.
    """
    before: BaseException | None = error
    while _of_httpx(error, "HTTPError") and (before := before.__cause__ or before.__context__):
        if isinstance(before, Exception) and _exit_code(before) is not None:
            return before
    return error


def _of_httpx(error: BaseException | None, kind: str) -> bool:
    """Whether it is an error of this kind of Prefect's client. Nothing else here speaks HTTP by
    httpx, which that client brings.
    """
    httpx = sys.modules.get("httpx")
    return httpx is not None and isinstance(error, getattr(httpx, kind))


def _exit_code(error: Exception) -> int | None:
    from flows.config import ConfigError
    from tasks.run.errors import MENDABLE

    if isinstance(error, MENDABLE):
        return 2 if isinstance(error, ConfigError) else 1
    return None


def with_options(
    settings: list[str] | None, dask_address: str, retry_set_aside: bool = False
) -> list[str]:
    """The settings, with what is asked for by options of its own laid over them."""
    address = [f"dask.address={dask_address}"] if dask_address else []
    return (
        (settings or []) + address + (["storage.retry_set_aside=true"] if retry_set_aside else [])
    )


def existing(location: str) -> "Workspace":
    """The workspace that lies there. Raises StorageError if none does."""
    from storage import open_workspace

    return open_workspace(location, must_exist=True)


def checked_config(config: pathlib.Path, settings: list[str] | None) -> "PipelineConfig":
    """The configuration, of which everything that it points to is there. Raises ConfigError."""
    from flows.config import check_inputs, load_config

    loaded = load_config(config, settings)
    check_inputs(loaded)
    return loaded


def prepare_prefect() -> None:
    """See `flows.service.server.prepare_prefect`."""
    from flows.service import server

    server.prepare_prefect()


def run_flow(names: Sequence[str], config: pathlib.Path, settings: list[str]) -> None:
    """Runs a flow, or one after another, from the terminal and prints their summary. The
    configuration and the first step's inputs are checked first, which takes a second; only then
    Prefect is started.

    Parameters
    ----------
    names: a step, several, or `run` for the whole pipeline.
    config, settings: the configuration's file, and what is laid over it.

    Raises
    ------
    ConfigError, UserError, StorageError: what a person can put right.
    """
    loaded = checked_config(config, settings)
    from storage import open_workspace
    from tasks.access.inputs import require_inputs

    require_inputs(names[0], open_workspace(loaded.workspace), loaded.recipe)
    from flows.service.server import prefect_server

    # Loading the flows takes seconds, as the server's start does.
    load = functools.partial(importlib.import_module, "flows.pipeline")
    with prefect_server(meanwhile=load) as api:
        from prefect import tags

        from flows import pipeline
        from flows.service.messages import tags_of

        typer.echo(f"Prefect: {api.removesuffix('/api')}", err=True)
        with tags(*tags_of(loaded.workspace)):
            results = [
                result for name in names for result in pipeline.FLOWS[name](str(config), settings)
            ]
        print_summary(results)
