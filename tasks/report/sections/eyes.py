"""The explained eyes: how many, how exact; the gallery below them shows each."""

from dr_lib.formatting import counted, duration, number, percent
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Key, Prose, nothing
from tasks.report.data import ReportData


def content(data: ReportData, folder: Folder) -> Content:
    """Counts, and how far the attributions are from the outcome that they explain."""
    eyes = data.gallery
    if eyes.empty:
        return nothing("No eye could be explained; what did not work is listed under “The run”.")
    labelled = eyes[eyes["stage"].notna()]
    right = int((labelled["stage"] == labelled["predicted"]).sum())
    photographs = int(data.workspace.photos()["present"].sum())
    tiles = [("Eyes explained", number(len(eyes)), f"of {counted(photographs, 'photograph')}")]
    finding = (
        f"{counted(len(eyes), 'eye')} explained; {number(right)} of {number(len(labelled))} with a"
        " label are graded right."
    )
    gaps = eyes["gap"].dropna()
    if len(gaps):
        middle, high = percent(gaps.median(), 1), percent(gaps.quantile(0.95), 1)
        finding += (
            f" Attributions add up to the change in the model’s answer within {middle} in the"
            f" median eye, and within {high} in 95 % of eyes."
        )
        worst = f"of the change in the model’s answer; worst {percent(gaps.max(), 1)}"
        tiles.append(("Median completeness gap", middle, worst))
    for row in data.last_work[data.last_work["stage"] == "attribute"].itertuples():
        pace = number(60 * row.new_images / row.seconds)
        tiles.append(("Eyes explained a minute", pace, duration(row.seconds)))
    return Content(finding, [Prose("eyes", data.recipe.attribution.layers[0]), Key()], tiles=tiles)
