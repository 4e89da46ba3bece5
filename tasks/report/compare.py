"""Two models, or two explanations, of one workspace side by side: for `dr compare`, and after a
retraining.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.evaluation.paired import paired_differences
from dr_lib.evaluation.patient_bootstrap import mean_intervals
from dr_lib.maps import HeatmapParams
from dr_lib.maps.agreement import map_agreement, matched_units
from dr_lib.report import render_page
from dr_lib.vocabulary import PROBABILITIES
from storage import Workspace, open_workspace
from storage.contents.explanations import DONE, ExplanationRecord, load_region_settings
from storage.layout import comparison_path, report_path
from storage.tables.schemas import SCHEMAS
from tasks.access.stores import whole
from tasks.execution.network import Workers
from tasks.execution.waves import run_in_waves
from tasks.report.eyes import LESION, Explained
from tasks.run.artifacts import show_comparison
from tasks.run.errors import UserError
from tasks.run.progress import progress, say
from tasks.run.resolved_ids import ResolvedIds

TABLE, PAGE = "model_differences", "comparison"
ENDS = ("_a", "_b")  # of the columns about A and about B
Measured = dict[tuple[str, ...], float]  # of an eye, by KEYS and the column of the table
KEYS = ["measure", "map", "quantity"]
SUMMARY = [*KEYS, "layer", "value_a", "value_b", "difference", "agreement", "low", "high"]
SUMMARY += ["chance", "p_value", "images"]


def resolve(workspace: Workspace, name: str) -> ExplanationRecord:
    """What an id, or the beginning of one, names: an explanation, or a model with the explanation
    of it that was made last, whose id is empty where there is none. Raises UserError, saying which
    ids there are.
    """
    known = {one.model_id: ExplanationRecord("", one.model_id) for one in workspace.models()}
    for one in workspace.explanations():
        known |= {one.model_id: one, one.explain_id: one}
    found = [record for key, record in known.items() if key.startswith(name)]
    if len(found) != 1:
        raise UserError(
            f"{len(found)} models or explanations of {workspace.location} begin with {name}; there"
            f" are {', '.join(known) or 'none'}"
        )
    return found[0]


def compare_with_previous(workspace: Workspace, ids: ResolvedIds, pool: Workers) -> None:
    """Compares an explanation once, on the pool's workers, with that of the model before, if there
    is one of the same fundi. What goes wrong is said, and the run goes on.
    """
    records = {one.explain_id: one for one in workspace.explanations()}
    older = [
        one
        for one in itertools.takewhile(
            lambda one: one.explain_id != ids.explain_id, records.values()
        )
        if one.preprocess_id == ids.preprocess_id and one.model_id != ids.model_id
    ]
    for one in older[-1:]:
        if workspace.files.names(comparison_path(one.explain_id, ids.explain_id)):
            return
        try:
            comparison = Comparison(workspace, one, records[ids.explain_id], pool)
            show_comparison(comparison.summary, comparison.write())
        except Exception as error:
            say(f"report: not compared with {one.explain_id}: {error}")


class Comparison:
    """B compared with A. Where one has no explanation, only their grades are.

    Parameters
    ----------
    pool: the workers on which maps are compared; without them, this process does it.

    Raises
    ------
    UserError: they are the same, or have no eye in common.
    """

    def __init__(
        self,
        workspace: Workspace,
        a: ExplanationRecord,
        b: ExplanationRecord,
        pool: Workers | None = None,
    ) -> None:
        explained, records = a.explain_id and b.explain_id, (a, b)
        names = [one.explain_id if explained else one.model_id for one in records]
        if names[0] == names[1]:
            raise UserError(f"A and B are both {names[0]}: name two that differ")
        self.workspace, self.records, self.names, self.pool = workspace, records, names, pool
        self.explained = [Explained(workspace, name) for name in names if explained]
        photos = workspace.photos().set_index("image_id")
        eyes = photos.loc[photos["present"], ["stage", "patient_id"]].assign(row_a=None, row_b=None)
        for end, record in zip(ENDS, records, strict=True):
            graded = workspace.frame("predictions", model_id=record.model_id).set_index("image_id")
            graded = graded[["split", "predicted_stage", *PROBABILITIES]]
            eyes = eyes.join(graded.add_suffix(end), how="inner")
        for end, one in zip(ENDS, self.explained, strict=False):
            done = np.flatnonzero(whole(one.store, "pixels/status") == DONE)
            places = pd.Series(done, np.array(one.store.image_ids)[done])
            eyes[f"row{end}"] = places.reindex(eyes.index)
        self.both, labelled = eyes.dropna(subset=["row_a", "row_b"]), eyes[eyes["stage"].notna()]
        held_out = labelled.loc[labelled["split_a"] == labelled["split_b"], "split_a"]
        self.split = "test" if (held_out == "test").any() else "external"
        self.tested = labelled.loc[held_out.index[held_out == self.split]]
        if self.tested.empty and self.both.empty:
            raise UserError(
                f"{' and '.join(names)} have no eye in common: neither a labelled one of the test"
                " split or of external sources nor an explained one"
            )

    def write(self) -> str:
        """Writes the rows of `model_differences` and the page, and returns the page's address."""
        files, folder = self.workspace.files, comparison_path(*self.names)
        values = {
            "ids": self.records,
            "explained": self.explained,
            "split": self.split,
            "reported": [files.names(report_path(name)) for name in self.names],
            "places": self.both[["row_a", "row_b"]].to_dict("index"),
            "rows": self.rows.astype(object).where(self.rows.notna(), None).to_dict("records"),
        }
        partition, part = self.records[1].model_id, "-".join(self.names)
        self.workspace.write_table(TABLE, self.rows, partition=partition, part=part)
        for name, text in render_page(PAGE, values).items():
            files.write(f"{folder}/{name}", text.encode())
        return files.url(f"{folder}/{PAGE}.html")

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of `model_differences`."""
        found = [*self._grades(), *self._maps(), *self._units()]
        columns = [name for name in SCHEMAS[TABLE].names if name != "source"]
        rows = pd.concat(found, ignore_index=True).reindex(columns=columns)
        rows["other_model_id"] = self.records[0].model_id
        if self.explained:
            rows["other_explain_id"], rows["explain_id"] = self.names
        return rows

    @property
    def summary(self) -> pd.DataFrame:
        """The rows about all eyes, with the columns that people look at."""
        about_all = self.rows[["stage", "image_id", "unit", "other_unit"]].isna().all(axis=1)
        return self.rows.loc[about_all, SUMMARY]

    def _grades(self) -> Iterator[pd.DataFrame]:
        eyes = self.tested
        if eyes.empty:
            return
        stages, patients = eyes["stage"].to_numpy(np.int64), eyes["patient_id"].to_numpy(str)
        answers = (eyes[[f"{name}{end}" for name in PROBABILITIES]].to_numpy(float) for end in ENDS)
        yield pd.DataFrame(paired_differences(stages, *answers, patients)).assign(images=len(eyes))
        a, b = (eyes[f"predicted_stage{end}"].to_numpy(np.int64) for end in ENDS)
        found = {"agreement": a == b}
        found |= {"value_a": (a == stages) & (a != b), "value_b": (b == stages) & (a != b)}
        measured = pd.DataFrame({("same_grade", "", "", name): of for name, of in found.items()})
        yield from _means(measured, eyes)
        given = {"image_id": eyes.index, "stage": stages, "value_a": a, "value_b": b}
        changes = pd.DataFrame(given | {"difference": b - a})[a != b]
        yield changes.assign(measure="predicted_stage", images=1)

    def _maps(self) -> Iterator[pd.DataFrame]:
        sizes = {(one.crop, one.fundi.attrs["preprocess"]["size"]) for one in self.explained}
        if self.both.empty or len(sizes) > 1:  # one's pixels are not the other's
            return
        shards = self.both["row_b"] // self.explained[1].store.shard_images
        rows = [of[["row_a", "row_b"]].to_numpy(np.int64).T for _, of in self.both.groupby(shards)]
        jobs = [MapsJob(self.workspace.location, self.names, of) for of in rows]
        if self.pool:
            found = run_in_waves(self.pool, "compare", map_agreements, jobs, images_of=len)
        else:
            with progress("compare", len(self.both)) as advance:
                found = [map_agreements(job, advance) for job in jobs]
        measured = pd.DataFrame([*itertools.chain.from_iterable(found)])
        yield from _means(measured, self.both)

    def _units(self) -> Iterator[pd.DataFrame]:
        if self.both.empty:
            return
        eyes, (first, second) = self.both, self.records
        if first.layer_quantity != second.layer_quantity:
            return
        if first.layer_quantity == "predicted":  # what speaks for two stages cannot be compared
            eyes = eyes[eyes["predicted_stage_a"] == eyes["predicted_stage_b"]]
        for layer in filter(second.layers.__contains__, first.layers):
            path = f"layers/{layer}/channel_attribution"
            of_a, of_b = (
                one.store.read_rows(eyes[f"row{end}"].to_numpy(np.int64), [path])[path]
                for one, end in zip(self.explained, ENDS, strict=True)
            )
            yield matched_units(of_a, of_b).assign(layer=layer, images=len(eyes))


@dataclass(frozen=True)
class MapsJob:
    """Some eyes that both explanations have. explain_ids: A's and B's; rows: (2, eye), of their
    stores."""

    location: str
    explain_ids: list[str]
    rows: np.ndarray

    def __len__(self) -> int:
        return self.rows.shape[1]


def map_agreements(
    job: MapsJob, advance: Callable[[int], None] = lambda images: None
) -> list[Measured]:
    """Runs on a worker: how alike the two maps of each eye are; and by chance, which is how alike
    A's map is to B's of another eye, half of these eyes further on.
    """
    workspace = open_workspace(job.location)
    explained = [Explained(workspace, name) for name in job.explain_ids]
    first, second = (one.maps(rows) for one, rows in zip(explained, job.rows, strict=True))
    regions = HeatmapParams(**load_region_settings(workspace.files, job.explain_ids[1]))
    measured: list[Measured] = []
    for eye in range(len(job)):
        found: Measured = {}
        for key in [key for key in first if key in second]:
            for other in {eye, (eye + len(job) // 2) % len(job)}:
                cut = regions if key == LESION else None
                pair = first[key][eye], second[key][other]
                agreement = map_agreement(*pair, crop=explained[1].crop, cut=cut)
                for (measure, column), value in agreement.items():
                    if other == eye or column == "agreement":
                        found[measure, *key, column if other == eye else "chance"] = value
        measured.append(found)
        advance(1)
    return measured


def _means(measured: pd.DataFrame, eyes: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The means of what was measured of the eyes, in columns by KEYS and the column of the table,
    over all of the eyes and over each stage.
    """
    keys = pd.MultiIndex.from_tuples([*measured], names=[*KEYS, "column"])
    values, patients = measured.to_numpy(float), eyes["patient_id"].to_numpy(str)
    stages = eyes["stage"].fillna(-1).to_numpy(np.int64)
    for stage in [None, *np.unique(stages[stages >= 0])]:
        of = slice(None) if stage is None else stages == stage
        columns = ["mean", "low", "high"]
        means = pd.DataFrame(mean_intervals(values[of], patients[of]).T, keys, columns)
        means["images"] = np.isfinite(values[of]).sum(axis=0)
        rows = means.pop("mean").unstack("column").join(means.xs("agreement", level="column"))
        yield rows.reset_index().replace("", None).assign(stage=stage)
