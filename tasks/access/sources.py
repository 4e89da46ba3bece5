"""The table of sources: what each one holds, what was set aside and why, and which photographs
another one has too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dr_lib.formatting import label, with_interval
from dr_lib.vocabulary import STAGES
from storage import Workspace
from storage.photos.sources import PhotoSources
from storage.photos.types import Problem, Source
from tasks.access.rejects import reason_counts
from tasks.run.errors import UserError
from tasks.run.session import photo_sources

# How a stratum of the table `evaluation` begins: of the eyes of a source; of an ensemble.
SOURCE = "source="
GRADING = "grading="
COPIES = {
    "copies_within": "copies within",
    "copies_across": "across sources",
    "kept_from_learning": "kept from learning",
}
COMPARED = ("auc_referable", "auc_any", "qwk", "accuracy", "ece")


def labelled_sources(sources: Sequence[Source], labels_needed: bool) -> PhotoSources:
    """The photographs and labels at these places. Raises UserError if the labels cannot be used;
    `labels_needed`: also if there are none.
    """
    found = photo_sources(sources)
    if fault := found.label_fault(labels_needed):
        raise UserError(fault)
    return found


@dataclass(frozen=True)
class GradedSource:
    """How a model does on the eyes of one source in one split. reading: by which ensemble, empty
    for the model's own answers. measures: for each of COMPARED the value and the ends of its
    interval.
    """

    source: str
    reading: str
    split: str
    images: int
    measures: Mapping[str, tuple[float, float, float]]


def graded_sources(
    workspace: Workspace, model_id: str, stratum: str = SOURCE
) -> list[GradedSource]:
    """Each source in the split that the model did not learn from, those to learn from first.

    stratum: how the strata of `evaluation` begin that are meant.
    """
    rows = workspace.frame("evaluation", model_id=model_id)
    rows = rows[rows["stratum"].str.startswith(stratum) & rows["split"].isin(["test", "external"])]
    graded = []
    for (split, name), part in rows.groupby(["split", "stratum"]):
        of = part.set_index("metric")[["value", "low", "high"]].astype(float)
        measures = {metric: tuple(of.loc[metric].tolist()) for metric in COMPARED}
        source, images = name.removeprefix(SOURCE).partition("+")[0], int(part["images"].iloc[0])
        graded.append(GradedSource(source, reading(name), split, images, measures))
    return sorted(graded, key=lambda one: (one.split != "test", one.source, one.reading))


def reading(stratum: str) -> str:
    """The steps of an ensemble in a stratum's name; empty for the model's own answers.

    >>> reading("source=kaggle+grading=poses+fellow"), reading("all")
    ('poses, fellow', '')
    """
    return stratum.partition(GRADING)[2].replace("+", ", ")


def evaluation_rows(workspace: Workspace, model_id: str) -> list[dict[str, Any]]:
    """The same as people read it; where sources have no names, all eyes of a split in one row."""
    graded = graded_sources(workspace, model_id) or graded_sources(workspace, model_id, "all")
    return [
        {
            "source": one.source,
            "reading": one.reading,
            "split": one.split,
            "eyes": one.images,
            **{label(metric): with_interval(*one.measures[metric]) for metric in COMPARED},
        }
        for one in graded
    ]


def source_rows(
    sources: PhotoSources, photos: pd.DataFrame, rejects: pd.DataFrame, *, looked_at: bool
) -> list[dict[str, Any]]:
    """Rows of the table `sources`.

    photos: rows with source, stage, patient_id and, where copies were looked for (`looked_at`),
    image_id, copy_of and split. rejects: rows with source, reason and detail.
    """
    names = source_names(photos["source"])
    rows = []
    for part in sources.parts:
        given, here = part.given, photos[names == part.given.name]
        aside = rejects[source_names(rejects["source"]) == given.name]
        rows.append(
            {
                "source": given.name,
                "use": given.use,
                "layout": part.found.layout,
                "place": given.photos,
                "photographs": len(here),
                "labelled": int(here["stage"].notna().sum()),
                **{f"stage{stage}": int((here["stage"] == stage).sum()) for stage in STAGES},
                "patients": here["patient_id"].nunique(),
                "patients_named": all(photo.patient for photo in part.found.photographs),
                "set_aside": len(aside),
                "reasons": reason_counts(aside["reason"]),
                **(_copies(given, photos, aside) if looked_at else dict.fromkeys(COPIES)),
            }
        )
    return rows


def _copies(given: Source, photos: pd.DataFrame, aside: pd.DataFrame) -> dict[str, int]:
    """How many photographs of a source are copies, second copies that were set aside included."""
    names = source_names(photos["source"])
    group = photos["copy_of"].fillna(photos["image_id"])
    across = names.groupby(group).transform("nunique") > 1
    mine = names == given.name
    here = photos[mine]
    firsts = aside.loc[aside["reason"] == "duplicate_content", "detail"].astype("str")
    first_ids = firsts.str.removeprefix("the same file as ")
    of = photos.set_index("image_id")
    homes = source_names(first_ids.map(of["source"]))
    outside = first_ids.map(of["split"]) == "external"
    near = source_names(here["copy_of"].map(of["source"])) == given.name
    return {
        "copies_within": int((here["copy_of"].notna() & near).sum() + (homes == given.name).sum()),
        "copies_across": int(across[mine].sum() + (homes != given.name).sum()),
        "kept_from_learning": int(
            (here["split"] == "excluded").sum() + (outside.sum() if given.use == "train" else 0)
        ),
    }


def source_names(sources: pd.Series) -> pd.Series:
    """The sources' names, empty text for the one without a name."""
    return sources.astype(object).where(sources.notna(), "")


def listed_rows(sources: PhotoSources) -> list[dict[str, Any]]:
    """The same before any photograph was read: by names and labels alone."""
    photographs, labels = sources.photographs(), sources.labels()
    stages = labels.set_index("image_id")["stage"]
    photos = pd.DataFrame(
        {
            "source": [photo.source or None for photo in photographs],
            "patient_id": [photo.patient or photo.image_id for photo in photographs],
            "stage": pd.Series([photo.image_id for photo in photographs], dtype="str").map(stages),
        }
    )
    rejects = pd.DataFrame(sources.problems(), columns=list(Problem._fields))
    rejects["source"] = rejects["path"].map(sources.name_of)
    return source_rows(sources, photos, rejects, looked_at=False)


def shown_rows(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The rows as people read them: stages in one column, nothing where nothing is known."""
    shown = []
    for row in rows:
        patients = f"{row['patients']:,}" + ("" if row["patients_named"] else " (not named)")
        aside = f"{row['set_aside']:,}" + (f" ({row['reasons']})" if row["reasons"] else "")
        shown.append(
            {
                "source": row["source"] or "(unnamed)",
                "use": row["use"],
                "layout": row["layout"],
                "photographs": row["photographs"],
                "labelled": row["labelled"],
                "stages 0/1/2/3/4": "/".join(str(row[f"stage{stage}"]) for stage in STAGES),
                "patients": patients,
                "set aside": aside,
            }
            | {shown: "" if row[name] is None else row[name] for name, shown in COPIES.items()}
        )
    return tuple(shown)
