"""The audit of an explanation's maps: what it leaves, what a second run and a killed one repeat,
and what the report says of it.
"""

import numpy as np
import pandas as pd
import pytest

import tasks.attribute.step
from dr_lib.localisation.audit import Auditor, AuditParams
from dr_lib.report.pictures import Folder
from storage.layout import explanation_path
from storage.photos.sources import PhotoSource
from storage.photos.types import Source
from tasks.access.contact_sheets import Photos
from tasks.access.explained import explained_eyes
from tasks.access.map_scores import audit_rows
from tasks.aggregate import lesion_study
from tasks.aggregate.audit import audit, sample
from tasks.attribute.step import attribute
from tasks.report.data import ReportData
from tasks.report.sections import audit as section
from tasks.run.errors import UserError
from tasks.run.session import Session
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool, WorkerDied, run_here
from tests.flows.test_report_sections import page

EYES = 6
PARAMS = AuditParams(eyes=4, points=2, steps=2, resamples=20)


@pytest.fixture(scope="module")
def explained(tmp_path_factory, tiny_trunk):
    """(session, recipe) after six eyes of three patients have been explained."""
    folder = tmp_path_factory.mktemp("audit")
    settings = ["attribution.neurons=1"]
    config, workspace = prepare(write_config(folder, size=32), image_ids(EYES), settings=settings)
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, tasks.attribute.step)
        session = Session(workspace, InlinePool())
        attribute(session, config.recipe, config.storage)
    return session, config.recipe


@pytest.fixture
def audited(explained, monkeypatch):
    """Audits with these settings; returns the words and how many eyes were audited now. dies_at:
    the eye at which the worker dies.
    """
    session, recipe = explained
    run_here(monkeypatch, lesion_study)
    once = Auditor.audit

    def run(params=PARAMS, dies_at=0):
        done = []

        def noted(self, *eye):
            if len(done) + 1 == dies_at:
                raise WorkerDied
            done.append(eye)
            return once(self, *eye)

        monkeypatch.setattr(Auditor, "audit", noted)
        try:
            return audit(session, recipe, params), len(done)
        except UserError:
            return "", len(done)

    return run


def rows_of(explained):
    session, recipe = explained
    ids = recipe.resolve(session.workspace)
    return audit_rows(session.workspace, ids.model_id, ids.explain_id)


def forget(explained):
    session, recipe = explained
    ids = recipe.resolve(session.workspace)
    session.workspace.files.remove_tree(explanation_path(ids.explain_id, "audit"))
    session.workspace.write_table("evaluation", [], partition=ids.model_id, part=part(ids))


def part(ids):
    return f"audit-{ids.explain_id}"


def test_a_second_run_does_nothing_and_a_larger_sample_audits_its_new_eyes(explained, audited):
    assert audited() == ("maps audited on 4 eyes", 4)
    before = rows_of(explained)
    assert audited() == ("maps audited on 4 eyes", 0)
    pd.testing.assert_frame_equal(rows_of(explained), before)
    assert audited(AuditParams(**{**vars(PARAMS), "eyes": 6})) == ("maps audited on 6 eyes", 2)
    assert audited(AuditParams(**{**vars(PARAMS), "eyes": 0})) == ("", 0)


def test_every_measure_of_every_map_is_a_row_with_an_interval(explained, audited):
    audited()
    rows = rows_of(explained)
    assert not rows.duplicated(["metric", "source"]).any()
    assert set(rows["source"]) == {"pixels", "lesion", "stem", "contrast", "grade"}
    assert set(rows.loc[rows["source"] == "pixels", "quantity"]) == {"predicted"}
    assert (rows["stratum"] == "audit").all()
    assert rows["lesion"].isna().all()
    assert rows["images"].max() == 4
    everywhere = rows[rows["images"] == 4]  # noise has an optic disc in an eye or two
    ends = everywhere[["low", "value", "high"]].to_numpy(float)
    assert np.isfinite(ends).all()
    assert (np.diff(ends, axis=1) >= -1e-9).all()


def test_a_killed_run_repeats_one_eye_and_ends_with_the_same_rows(explained, audited):
    audited()
    before = rows_of(explained)
    forget(explained)
    assert audited(dies_at=3) == ("", 2)
    assert audited() == ("maps audited on 4 eyes", 2)
    pd.testing.assert_frame_equal(rows_of(explained), before)


def test_the_sample_is_spread_over_stages_and_grades_and_takes_no_eye_that_was_learnt_from():
    count = 60
    eyes = pd.DataFrame(
        {
            "image_id": image_ids(count),
            "stage": np.arange(count) % 5,
            "predicted_stage": np.arange(count) // 4 % 3,
            "split": ["train", "train", "test"] * (count // 3),
            "row": range(count),
        }
    )
    chosen = sample(eyes, 10)
    assert (chosen["split"] == "test").all()
    groups = chosen.groupby(["predicted_stage", "right"]).size()
    assert len(groups) == 6
    assert groups.max() - groups.min() <= 1
    assert chosen["image_id"].tolist() == sample(eyes.iloc[::-1], 10)["image_id"].tolist()
    kept = set(sample(eyes.iloc[:57], 10)["image_id"]) & set(chosen["image_id"])
    assert len(kept) >= 8  # three eyes less cost few others their place
    assert len(sample(eyes[eyes["split"] == "train"], 10)) == 10


def test_the_report_tells_what_survives_and_leads_to_unusual_eyes(explained, audited, tmp_path):
    session, recipe = explained
    audited()
    workspace, ids = session.workspace, recipe.resolve(session.workspace)
    names = image_ids(EYES)
    eyes = explained_eyes(workspace, ids.model_id, names).assign(present=False)
    photos = Photos(workspace, PhotoSource(Source(str(tmp_path))))
    data = ReportData(workspace, recipe, {}, ids, photos, eyes)
    folder = Folder()
    made = page("audit", section.content(data, folder).values, folder)
    assert "On 4 eyes, better than a random map by deletion:" in made.text
    assert "learnt nothing, the map on pixels still correlates" in made.text
    assert any(address.startswith("eye.html#") for address in made.addresses)
    order = [made.text.index(level) for level in ("above pooled", "above stem", "everything")]
    assert order == sorted(order)


def test_an_interval_decides_what_is_said_of_a_map():
    gains = pd.DataFrame(
        {
            "source": ["a", "b", "c", "d"] * 2,
            "metric": ["insertion_random"] * 4 + ["deletion_random"] * 4,
            "low": [0.1, -0.2, -0.3, np.nan, 0.2, 0.1, -0.4, np.nan],
            "high": [0.2, 0.2, -0.1, np.nan, 0.3, 0.2, -0.2, np.nan],
            "words": [str(number) for number in range(8)],
        }
    )
    said = section.verdicts(gains)["insertion_random"].to_dict()
    assert said == {
        "a": "better, 0",
        "b": "unclear, 1",
        "c": "worse, 2",
        "d": "unknown, 3",
    }
