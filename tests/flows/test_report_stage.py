"""The report stage draws what is new and nothing else, and leaves the same files whichever way
it came there.
"""

import hashlib
import pathlib
import re

import pytest

from dr_lib.report.eyes import DRAWING_VERSION
from storage import open_workspace
from tasks.report import compare
from tasks.report import eyes as report_eyes
from tasks.report import step as stage
from tasks.report.sections import compared
from tasks.report.step import report
from tasks.run.session import Session
from tasks.run.settings import DataParams
from tests.flows.explained import RECIPE, explain
from tests.flows.inline import InlinePool, run_here


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Runs the stage in this process over so many explained eyes; its sections are those that
    need no other stage.
    """

    def run(count: int, folder: str = "workspace"):  # 0: those that are explained already
        workspace = open_workspace(tmp_path / folder)
        if count:
            explain(workspace, count)
        (tmp_path / "photos").mkdir(exist_ok=True)
        return report(
            Session(workspace, InlinePool()), RECIPE, DataParams(str(tmp_path / "photos")), {}
        )

    run_here(monkeypatch, stage, compare)
    monkeypatch.setattr(stage, "SECTIONS", {})
    return run


def files(result) -> dict[str, str]:
    """The hash of every file of the eyes."""
    folder = pathlib.Path(result.message).parent
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "eyes").rglob("*")
        if path.is_file()
    }


def test_two_more_eyes_are_two_eyes_drawn_and_nothing_new_is_none(made):
    first, again = made(5), made(5)
    assert (first.new_images, first.images) == (5, 5)
    assert again.new_images == 0
    before, third = files(first), made(7)
    assert (third.new_images, third.images) == (2, 7)
    after = files(third)
    assert {name for name in before if after[name] != before[name]} == {"eyes/00001/made.json"}
    assert len([name for name in after if name.endswith(".js")]) == 7
    assert after == files(made(7, "at once")), "the way there leaves no trace"


def test_a_model_that_is_trained_anew_is_compared_with_the_one_before_and_the_report_says_so(
    made, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage, "SECTIONS", {"compared": ("Compared", compared.content)})
    first = pathlib.Path(made(4).message)
    assert "Not compared with another model yet." in (first.parent / "compared.html").read_text()
    workspace = open_workspace(tmp_path / "workspace")
    explain(workspace, 4, model_id="fedcba987654", created="2026-01-02", grades=[0, 1, 2, 3])
    second = pathlib.Path(made(0).message).parent
    page = (second / "compared.html").read_text()
    (address,) = re.findall(r'href="(\.\./compare-.*?)"', page)
    told = (second / address).read_text()
    assert f'href="../{second.name}/eye.html#00000/1_left"' not in told, "its grade is the same"
    assert "of 4 labelled eyes of the test split" in told
    assert "of 4 eyes get another grade, kappa differs by" in page


def test_an_eye_lost_in_a_kill_is_drawn_again_with_the_same_bytes(made):
    """Killed after some eyes of a shard: the shard has no mark yet."""
    first = made(5)
    before = files(first)
    folder = pathlib.Path(first.message).parent / "eyes/00000"
    (folder / "made.json").unlink()
    (folder / "1_left.js").unlink()
    assert made(5).new_images == 4
    assert files(first) == before


def test_an_eye_that_is_explained_no_more_leaves_the_report(made, tmp_path):
    first = made(5)
    workspace = open_workspace(tmp_path / "workspace")
    predictions = workspace.frame("predictions").drop(columns="model_id")
    workspace.write_table(
        "predictions", predictions[predictions["image_id"] != "1_right"], partition="0123456789ab"
    )
    store = report_eyes.Explained(workspace, "latest", None).store
    eyes = stage.explained_eyes(workspace, "0123456789ab", store.image_ids).assign(present=True)
    jobs = report_eyes.shards_to_draw(workspace, RECIPE.resolve(workspace), (), store, eyes)
    assert [job.span.index for job in jobs] == [0]
    for job in jobs:
        report_eyes.draw_shard(job)
    assert "eyes/00000/1_right.js" not in files(first)
    assert "eyes/00000/1_left.js" in files(first)


def test_another_way_of_drawing_draws_every_eye_and_page_again(made, monkeypatch):
    index = pathlib.Path(made(5).message)
    index.write_text("drawn before")
    assert made(0).new_images == 0
    assert index.read_text() == "drawn before"
    monkeypatch.setattr(stage, "DRAWING_VERSION", DRAWING_VERSION + 1)
    _, tables = report_eyes.DRAWING
    monkeypatch.setattr(report_eyes, "DRAWING", [DRAWING_VERSION + 1, tables])
    assert made(0).new_images == 5
    assert index.read_text() != "drawn before"
