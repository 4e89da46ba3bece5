"""The `dr` command. Reads arguments, calls one function, turns errors into one line and an exit
code.

Exit codes: 0 done · 1 failed, one line says what and what to do · 2 wrong usage or configuration ·
130 interrupted. Nothing heavy is imported before it is used, so that `--help` and a wrong key
answer at once.
"""

import contextlib
import json
import pathlib
import signal
import sys
from typing import Annotated

import typer

from flows.cli.command_line import (
    Config,
    DaskAddress,
    RetrySetAside,
    Settings,
    checked_config,
    fail,
    one_line_errors,
    prepare_prefect,
    run_flow,
    with_options,
)
from flows.cli.operation import doctor, serve, watch
from flows.cli.printing import print_rows
from flows.cli.results import compare, export, gc, show, sql, status, verify
from flows.cli.terminal import accept_any_encoding
from flows.registry import STEPS

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
@one_line_errors
def dr() -> None:
    """Explains diabetic-retinopathy models over whole data sets: from photographs to attributions,
    tables and a report.

    Start with [bold]dr synthesise workspaces/demo-photos --count 400 --balanced[/] and [bold]dr run
    demo[/]; for your own photographs, [bold]dr run kaggle --set data.photos=FOLDER[/]. A
    configuration of your own starts as a copy of one in deployments/. Every command can be stopped
    with Ctrl-C and run again: it goes on where it stopped.
    """


@app.command(rich_help_panel="Pipeline")
@one_line_errors
def run(
    context: typer.Context,
    config: Config,
    settings: Settings = None,
    dask_address: DaskAddress = "",
    retry_set_aside: RetrySetAside = False,
) -> None:
    """Runs the whole pipeline: ingest, preprocess, train, attribute, aggregate, counterfactuals,
    linearity, report.

    What is already done is not done again: after a first run, ten new photographs are ten
    photographs' work.

    Example: dr run deployments/kaggle.toml --set data.photos=~/kaggle --set attribution.limit=100
    """
    options = with_options(settings, dask_address, retry_set_aside)
    run_flow([context.info_name or ""], config, options)


@one_line_errors
def run_step(
    context: typer.Context,
    config: Config,
    settings: Settings = None,
    dask_address: DaskAddress = "",
) -> None:
    """As `run`, of a step that sets nothing aside."""
    run_flow([context.info_name or ""], config, with_options(settings, dask_address))


for _name, _step in STEPS.items():
    app.command(_name, help=_step.sentence, rich_help_panel="One step of the pipeline")(
        run if _name in ("preprocess", "attribute") else run_step
    )


@app.command("import-model", rich_help_panel="Pipeline")
@one_line_errors
def import_model(
    file: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="FILE.weights.h5",
            help="A weights-only file: model.save_weights of the same architecture.",
        ),
    ],
    config: Config,
    settings: Settings = None,
) -> None:
    """Takes in a model that was trained elsewhere; from then on the configuration has this model
    and trains none.

    Its architecture must be that of the configuration. Eyes that are preprocessed already are
    graded at once.

    Example: dr import-model trained.weights.h5 deployments/kaggle.toml --set "model.dense=[256,
    64]"
    """
    loaded = checked_config(config, settings)
    prepare_prefect()
    from tasks.train.importing import import_model as take_in

    model_id, ready = take_in(loaded.workspace, file, loaded.recipe, loaded.tables)
    typer.echo(
        f"model {model_id} is now the model of {config}"
        + ("" if ready else "; dr run goes on from here"),
        err=True,
    )
    if ready:
        run_flow(["train"], config, settings or [])


@app.command(rich_help_panel="Pipeline")
@one_line_errors
def evaluate(
    config: Config,
    model: Annotated[
        str,
        typer.Option(metavar="ID", help="A model of the workspace, trained there or imported."),
    ],
    settings: Settings = None,
    dask_address: DaskAddress = "",
) -> None:
    """Grades a model on the sources of a configuration: reads and preprocesses what is new,
    predicts, and prints a line a source. Trains and explains nothing.

    Example: dr evaluate external.toml --model 0123456789ab
    """
    from flows.config import load_config
    from storage import open_workspace

    given = [*with_options(settings, dask_address), f"training.model_id={model}"]
    loaded = load_config(config, given)
    workspace = open_workspace(loaded.workspace)
    loaded.recipe.model_id(workspace)  # refuses a model that is not there before anything is read
    run_flow(["ingest", "preprocess", "train"], config, given)
    from tasks.access.sources import evaluation_rows

    print_rows(evaluation_rows(workspace, model), title=f"Model {model}")


@app.command(rich_help_panel="Pipeline")
@one_line_errors
def plan(
    config: Config,
    settings: Settings = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            help=(
                "Whether to explain a few images on this machine first; by default only where no"
                " finished shard tells."
            ),
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="What an image takes one worker, if you know."),
    ] = None,
) -> None:
    """Says what a run would do now: images, shards, bytes, memory, passes and time. Writes nothing
    into the workspace.

    Ends with exit code 1, saying by how much, where the run fits neither the disk nor the memory.
    """

    prepare_prefect()
    from tasks.attribute.planning import plan as plan_run

    loaded = checked_config(config, settings)
    rows, refusal = plan_run(
        loaded.workspace,
        loaded.data.every_source,
        loaded.recipe,
        loaded.storage,
        loaded.dask,
        measure=False if rate is not None else calibrate,
        seconds=rate,
    )
    print_rows(rows, title=f"What dr run {config} would do")
    if refusal:
        raise fail(refusal, 1)


for _command in (status, verify, gc, sql, show, compare, export):
    app.command(rich_help_panel="Results")(one_line_errors(_command))
for _command in (serve, watch, doctor):
    app.command(rich_help_panel="Operation")(one_line_errors(_command))


@app.command(rich_help_panel="Data")
@one_line_errors
def synthesise(
    folder: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="FOLDER", help="A new folder, or one that an interrupted call began."
        ),
    ],
    count: Annotated[
        int, typer.Option(min=1, help="How many photographs; both eyes of each patient.")
    ] = 200,
    seed: Annotated[
        int, typer.Option(min=0, help="The same seed and count give the same bytes.")
    ] = 0,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced", help="As many eyes of every stage, instead of Kaggle's frequencies."
        ),
    ] = False,
    largest_px: Annotated[
        int, typer.Option(help="Width of the largest camera's photographs.")
    ] = 3000,
) -> None:
    """Draws synthetic fundus photographs in Kaggle's layout, with a lesion mask for each.

    The stage of an eye follows its lesions by the international clinical scale.
    """
    from dr_lib.synthetic import SynthesisParams

    prepare_prefect()
    from tasks.ingest.synthesise import synthesise as draw

    try:
        params = SynthesisParams(seed=seed, balanced=balanced, largest_px=largest_px)
    except ValueError as error:
        raise fail(str(error), 2) from None
    new = draw(folder, count, params)
    typer.echo(
        json.dumps({"folder": str(folder), "photographs": count, "drawn_now": new})
        if not sys.stdout.isatty()
        else f"{folder}: {count} photographs, {new} drawn now"
    )


def main() -> None:
    """The entry point of `dr`."""
    accept_any_encoding()
    # A service manager's stop is a person's Ctrl-C: the run reports its end, and workers and server
    # go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(BrokenPipeError):  # `dr sql … | head` ends quietly
        app()


if __name__ == "__main__":
    main()
