"""The explained eyes: how many, how exact; the gallery below them shows each."""

from dr_lib.formatting import duration, number, percent
from dr_lib.report import Folder
from dr_lib.report.section import Content, Key, Text, nothing
from tasks.report.data import Shown


def content(shown: Shown, folder: Folder) -> Content:
    """Counts, and how far the attributions are from the outcome that they explain."""
    eyes, layers = shown.gallery, shown.recipe.attribution.layers
    if eyes.empty:
        return nothing("No eye could be explained; what did not work is listed under “The run”.")
    known = eyes[eyes["stage"].notna()]
    right = f"{number(int((known['stage'] == known['predicted']).sum()))} of {number(len(known))}"
    photographs = int(shown.workspace.photos()["present"].sum())
    tiles = [("Eyes explained", number(len(eyes)), f"of {number(photographs)} photographs")]
    gaps, exact = eyes["gap"].dropna(), ""
    if len(gaps):
        middle = percent(gaps.median(), 1)
        high = percent(gaps.quantile(0.95), 1)
        exact = (
            f" Attributions miss the outcome’s change by {middle} in the median eye, by less than"
            f" {high} in 95 % of them."
        )
        tiles.append(
            (
                "Median completeness gap",
                middle,
                f"of the outcome’s change; worst {percent(gaps.max(), 1)}",
            )
        )
    for row in shown.last_work[shown.last_work["stage"] == "attribute"].itertuples():
        tiles.append(
            (
                "Eyes explained a minute",
                number(60 * row.new_images / row.seconds),
                duration(row.seconds),
            )
        )
    words = (
        f"From the outcome to the strongest neurons of the layer {layers[0]}, and from those"
        " neurons to pixels: original, preprocessed, the summed active regions of the most"
        " positive neurons, and of the most negative. Each map is on its own scale."
    )
    finding = f"{number(len(eyes))} eyes explained; {right} with a label are graded right.{exact}"
    return Content(finding, [Text(words), Key()], tiles=tiles)
