"""The commands that read a workspace: what it holds, whether it is whole, its tables, its eyes."""

import contextlib
import pathlib
import sys
from typing import Annotated, Literal

import typer

from flows.cli.command_line import Location, existing, fail, prepare_prefect, run_flow
from flows.cli.printing import print_frame, print_rows


def status(workspace: Location) -> None:
    """Shows what a workspace holds, how far each step is, and what failed."""
    from tasks.access.status import describe

    print_rows(describe(existing(workspace)), title=workspace)


def verify(
    workspace: Location,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Unmark what is broken, so that the next run makes it again."
        ),
    ] = False,
    config: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="CONFIG.toml",
            help="With --repair: run the pipeline at once, which makes just that again.",
        ),
    ] = None,
) -> None:
    """Reads every shard and table and lists what is torn, missing or untrue. Exit code 1 if
    anything is.
    """
    from storage.admin.verify import verify as check

    opened = existing(workspace)
    # What a run under way has not finished is not broken.
    with opened.lock("run") if repair else contextlib.nullcontext():
        problems = check(opened, repair=repair)
    if not problems:
        typer.echo("every shard and table is whole")
        return
    print_rows(problems, title="Problems")
    lost = sum(problem["repair"] == "no" for problem in problems)
    if not repair:
        raise fail(
            f"{len(problems)} problems; mend them with dr verify {workspace} --repair and run the"
            " pipeline again",
            1,
        )
    if config and lost < len(problems):
        run_flow(["run"], config, [f"workspace={workspace}"])
    else:
        typer.echo("unmarked what can be made again; run the pipeline to do so", err=True)
    if lost:
        raise fail(f"{lost} problems cannot be mended by running again; see the table", 1)


def gc(
    workspace: Location,
    delete: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Removes this one; may be given many times."),
    ] = None,
    delete_old: Annotated[
        bool, typer.Option("--delete-old", help="Removes everything that is old or unfinished.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=1, help="How many of the newest explanations are not old.")
    ] = 1,
) -> None:
    """Lists explanations, models and fundi, what needs them and which are old; removes them only
    when told.

    Example: dr gc workspaces/demo --delete-old --keep 2
    """
    from dr_lib.formatting import size_text
    from storage.admin.gc import collect, listing

    opened = existing(workspace)
    if not (delete or delete_old):
        print_rows(listing(opened, keep=keep), title=workspace)
        return
    gone = collect(opened, delete or (), old=delete_old, keep=keep)
    print_rows(gone, title="Removed")
    typer.echo(f"{size_text(sum(row['bytes'] for row in gone))} freed", err=True)


def sql(
    workspace: Location,
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help='DuckDB SQL over the tables, such as "from latest_predictions limit 5".',
        ),
    ],
    output: Annotated[Literal["table", "csv", "json"], typer.Option("--format")] = "table",
) -> None:
    """Answers a query over the workspace's tables; as CSV when the output is piped.

    Example: dr sql workspaces/demo "select stage, count(*) from photos group by stage order by
    stage"
    """
    from storage.admin.catalog import query as ask

    frame = ask(existing(workspace), query)
    print_frame(frame, output if sys.stdout.isatty() or output != "table" else "csv")


def export(
    workspace: Location,
    regions: Annotated[
        str,
        typer.Option(
            metavar="coco|csv|geojson",
            help=(
                "coco: for labelling tools such as CVAT and Label Studio; csv: a row a region, its"
                " polygon as WKT; geojson: for QuPath and its like."
            ),
        ),
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="Where it goes; by default to the output."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            metavar="MAP",
            help="Whose regions: lesion (the lesion map), or a layer such as stem.",
        ),
    ] = "",
) -> None:
    """Writes the lesion regions of every explained eye as polygons and boxes in the photograph's
    own pixels.

    Of the explanation made last. The score is a region's share of its map, 0 to 1. Where lesion
    masks have shown which channels tell lesion types apart, each region has its likeliest type and
    that type's probability.

    Example: dr export workspaces/demo --regions coco --out regions.json
    """
    from dr_lib.maps.exchange import FORMS
    from storage.files.files import write_whole

    if regions not in FORMS:
        raise fail(f"--regions {regions}: choose one of {', '.join(FORMS)}", 2)
    if out is not None and out.exists() and not out.is_file():
        raise fail(f"--out {out}: is no file; leave --out away to write to the output", 2)
    prepare_prefect()
    from tasks.report.export import export_regions

    found = export_regions(existing(workspace), regions, source)
    if out is None:
        sys.stdout.write(found.text)
    else:
        write_whole(out, found.text.encode())
    typer.echo(found.in_words() + (f": {out}" if out else ""), err=True)


def compare(
    workspace: Location,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A model or an explanation: its id, or the beginning of one."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one, such as the newer one.")],
) -> None:
    """Compares two models, or two explanations: which eyes change their grade and who is right,
    AUC and kappa as paired differences with intervals, how far maps, regions and units agree.

    A model stands for its newest explanation. Where one has none, only grades are compared. The
    rows become the table model_differences, with more detail by stage, eye and unit, and a page.

    Two seeds of one recipe: dr run CONFIG.toml, then dr run CONFIG.toml --set training.seed=1;
    dr status WORKSPACE and dr gc WORKSPACE list the ids.

    Example: dr compare workspaces/demo 0123456789ab ba9876543210
    """
    opened = existing(workspace)
    prepare_prefect()
    from tasks.report.compare import Comparison, resolve

    with opened.lock():
        comparison = Comparison(opened, resolve(opened, a), resolve(opened, b))
        page = comparison.write()
    print_frame(comparison.summary, "table" if sys.stdout.isatty() else "csv")
    typer.echo(f"page: {page}", err=True)


def show(
    workspace: Location,
    image_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE_ID", help="Such as 10_left; with --pdf several."),
    ] = None,
    picture: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--png", metavar="FILE", help="Where the picture goes (default: IMAGE_ID.png)."
        ),
    ] = None,
    pdf: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead, a PDF for readers: one A4 page an eye, legible in black and white too.",
        ),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            metavar="CONDITION",
            help="With --pdf, in the place of ids: all explained eyes of which this is true, in SQL"
            " on the columns of the table predictions.",
        ),
    ] = "",
    photos: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="The data folder (of several sources that of the eye's), to show the photograph"
            " itself too.",
        ),
    ] = "",
    compare: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="The two outcomes of Fig (b), such as stage0,referable.",
        ),
    ] = "stage0,stage4",
) -> None:
    """Prints one eye's numbers and neurons, and writes its figures (a) and (b) and its neurons'
    regions as one PNG; or writes a PDF of one eye or of many.

    Example: dr show workspaces/demo 10_left --photos workspaces/demo-photos --compare stage0,stage2

    Example: dr show workspaces/demo --pdf missed.pdf --where "stage >= 2 and predicted_stage < 2"
    """

    prepare_prefect()
    from dr_lib.formatting import counted
    from storage.ids import page_name
    from tasks.report.show import show_image, show_sheets

    opened, chosen = existing(workspace), image_ids or []
    if bool(chosen) == bool(where) or (pdf is None and len(chosen) != 1):
        raise fail("give one IMAGE_ID; or --pdf FILE with some of them or with --where", 2)
    if pdf is not None:
        count = show_sheets(opened, chosen, pdf, where=where, photos=photos)
        typer.echo(f"{counted(count, 'eye')}: {pdf}", err=True)
        return
    outcomes = tuple(name.strip() for name in compare.split(","))
    if len(outcomes) != 2:
        raise fail(
            f"--compare {compare}: give two outcomes with a comma between, such as stage0,stage4", 2
        )
    image_id = chosen[0]
    target = picture or pathlib.Path(f"{page_name(image_id)}.png")
    numbers, neurons = show_image(opened, image_id, target, photos=photos, compare=outcomes)
    print_rows(numbers, title=image_id)
    print_rows(neurons, title="Strongest neurons")
    typer.echo(f"picture: {target}", err=True)
