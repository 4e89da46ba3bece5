"""Preprocessing that is killed goes on; that loses workers ends; and what it leaves is what an
undisturbed run leaves.
"""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import pytest

import tasks.execution.waves
import tasks.preprocess.shard
from dr_lib.fundus import PreprocessParams, UngradablePhoto, normalise
from flows.config import load_config
from storage import open_workspace
from storage.admin.verify import verify
from storage.contents.fundus import DONE, REJECTED
from storage.photos.types import Source
from tasks.ingest.step import ingest
from tasks.preprocess.step import preprocess
from tasks.run.errors import UserError
from tasks.run.session import Session
from tests.flows import faults
from tests.flows.inline import InlinePool
from tests.unit.fundus_drawing import Eye

PHOTOGRAPHS = 14
SHARD = 3
CONFIG = """
workspace = "{workspace}"
[data]
photos = "{photos}"
[preprocess]
size = 96
[storage]
shard_images = {shard}
[dask]
workers = 1
"""


class Here:
    """A pool without workers: jobs run in this process, one after the other."""

    workers = 1

    def connect(self) -> None:
        """There is nothing to connect to."""

    def load(self):
        return ""

    def run(self, function, jobs):
        return ((job, function(job)) for job in jobs)


def draw(folder: pathlib.Path, eyes: int = PHOTOGRAPHS) -> list[str]:
    """Small photographs in Kaggle's layout, no two alike; returns their paths in the folder, in
    the catalogue's order.
    """
    (folder / "train").mkdir(parents=True)
    paths = []
    for number in range(eyes):
        path = f"train/{number // 2 + 1}_{('left', 'right')[number % 2]}.jpeg"
        eye = Eye(
            height=300,
            width=340,
            centre_y=149.5,
            centre_x=169.5,
            diameter=250 + number % 16,
            angle=137.1 * number,
            texture=12 + number / 400,
        )
        cv2.imwrite(str(folder / path), eye.draw())
        paths.append(path)
    labels = "".join(f"{path[6:-5]},{number % 5}\n" for number, path in enumerate(paths))
    (folder / "trainLabels.csv").write_text(f"image,level\n{labels}")
    return paths


def read_log(file: pathlib.Path) -> list[str]:
    return file.read_text().splitlines()


def contents(workspace: pathlib.Path) -> dict[str, object]:
    """What preprocessing left: every byte, but for the times in the ledger."""
    found = {}
    for path in sorted((workspace / "fundus").rglob("*")):
        if path.is_file():
            name = str(path.relative_to(workspace))
            found[name] = path.read_bytes()
            if ".ledger/" in name:
                found[name] = {
                    key: value for key, value in json.loads(found[name]).items() if key != "written"
                }
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory, prefect_server):
    """An undisturbed run; one killed four times, and ended; one whose photographs kill workers,
    and the same once more.
    """
    from prefect import flow
    from prefect.settings import PREFECT_API_URL

    root = tmp_path_factory.mktemp("faults")
    photos = draw(root / "photos")
    for name in ("undisturbed", "killed", "deadly"):
        config = root / f"{name}.toml"
        config.write_text(CONFIG.format(workspace=root / name, photos=root / "photos", shard=SHARD))
        loaded = load_config(config)
        session = Session(open_workspace(root / name), Here())
        flow(ingest, validate_parameters=False)(session, loaded.data)
        if name == "undisturbed":
            flow(preprocess, validate_parameters=False)(
                session, loaded.recipe, loaded.data, loaded.storage
            )
    shards = [photos[start : start + SHARD] for start in range(0, PHOTOGRAPHS, SHARD)]
    kills = [
        {"at": "read", "match": shards[1][0], "how": "group"},
        {"at": "set", "match": "pixels/c/1/", "how": "group"},
        {"at": "mark", "match": "/000002.json", "how": "group"},
        {"at": "marked", "match": "/000003.json", "how": "group"},
    ]
    deaths = [
        {"at": "read", "match": shards[0][1], "how": "process", "once": str(root / "died")},
        {"at": "read", "match": shards[2][0], "how": "process"},
        {"at": "read", "match": shards[4][1], "how": "error", "once": str(root / "failed")},
    ]
    plan = [("killed", [kill]) for kill in kills] + [
        ("killed", []),
        ("deadly", deaths),
        ("deadly", []),
    ]
    calls = [
        {
            "arguments": ["preprocess", str(root / f"{name}.toml")],
            "environment": faults.environment(broken, root / f"read-{number}"),
        }
        for number, (name, broken) in enumerate(plan)
    ]
    command = [sys.executable, faults.HERE, json.dumps(calls)]
    environment = {
        **os.environ,
        "PREFECT_API_URL": PREFECT_API_URL.value(),
    }  # read when Prefect is imported: once for all runs
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {
        "root": root,
        "shards": shards,
        "codes": json.loads(done.stdout),
        "said": done.stderr,
        "read": [read_log(root / f"read-{number}") for number in range(len(calls))],
    }


def test_each_kill_ended_its_run_and_the_fifth_call_came_through(runs):
    assert runs["codes"][:5] == [-9, -9, -9, -9, 0], runs["said"]


def test_a_killed_run_leaves_the_same_bytes_as_an_undisturbed_one(runs):
    expected = contents(runs["root"] / "undisturbed")
    assert len([name for name in expected if ".ledger/" in name]) == 5
    assert contents(runs["root"] / "killed") == expected
    assert verify(open_workspace(runs["root"] / "killed")) == []


def test_finished_shards_are_not_computed_again(runs):
    """Killed before shard 1, in the middle of writing it, between writing shard 2 and its mark,
    after the mark of 3.
    """
    shards, read = runs["shards"], runs["read"]
    assert read[0] == shards[0] + shards[1][:1]
    assert read[1] == shards[1]
    assert read[2] == shards[1] + shards[2]
    assert read[3] == shards[2] + shards[3]
    assert read[4] == shards[4]


def test_a_photograph_that_kills_its_worker_is_found_and_set_aside_and_a_worker_lost_once_costs_nothing(
    runs,
):
    assert runs["codes"][5] == 0, runs["said"]
    culprit = runs["shards"][2][0]
    rejects = open_workspace(runs["root"] / "deadly").rejects()
    assert dict(zip(rejects["path"], rejects["reason"], strict=True)) == {culprit: "kills_worker"}
    fundus = open_workspace(runs["root"] / "deadly").fundus()
    undisturbed = open_workspace(runs["root"] / "undisturbed").fundus()
    others = fundus["image_id"].values != pathlib.PurePath(culprit).stem
    assert fundus["status"].values[~others].tolist() == [REJECTED]
    assert (fundus["status"].values[others] == DONE).all()
    for name in undisturbed.data_vars:
        assert (
            fundus[name].values[others].tobytes() == undisturbed[name].values[others].tobytes()
        ), name


def test_a_photograph_that_could_not_be_read_once_is_tried_again_alone(runs):
    """A network drive that was gone for a moment; the photograph that kills workers is not tried
    again.
    """
    assert runs["codes"][6] == 0, runs["said"]
    assert runs["read"][6] == [runs["shards"][4][1]]


def test_what_was_set_aside_is_tried_again_when_that_is_asked_for(runs):
    """Its library was mended: afterwards nothing tells the workspace from one in which nothing went
    wrong.
    """
    from prefect import flow

    mended = shutil.copytree(runs["root"] / "deadly", runs["root"] / "mended")
    config, session = (
        load_config(runs["root"] / "deadly.toml"),
        Session(open_workspace(mended), InlinePool()),
    )
    storage = dataclasses.replace(config.storage, retry_set_aside=True)
    result = flow(preprocess, validate_parameters=False)(
        session, config.recipe, config.data, storage
    )
    assert result.new_images == 1
    assert contents(mended) == contents(runs["root"] / "undisturbed")
    assert session.workspace.rejects().empty


@pytest.fixture
def small(tmp_path, prefect_server):
    """(workspace, a function that preprocesses in this process) of four photographs in two
    shards.
    """
    from prefect import flow

    draw(tmp_path / "photos", 4)
    config = tmp_path / "small.toml"
    config.write_text(
        CONFIG.format(workspace=tmp_path / "workspace", photos=tmp_path / "photos", shard=3)
    )
    loaded = load_config(config)
    session = Session(open_workspace(loaded.workspace), InlinePool())
    flow(ingest, validate_parameters=False)(session, loaded.data)

    def run(*, retry: bool = False):
        storage = dataclasses.replace(loaded.storage, retry_set_aside=retry)
        return flow(preprocess, validate_parameters=False)(
            session, loaded.recipe, loaded.data, storage
        )

    return session.workspace, run


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "out of memory: give dask.workers"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: give dask.workers"),
        (OSError(errno.EMFILE, "Too many open files"), "mend that"),
        (RuntimeError("no such step"), "a fault of the program"),
    ],
    ids=["memory", "memory, says the system", "too many files", "the program"],
)
def test_what_may_be_anybody_s_leaves_a_photograph_pending_and_ends_the_run_with_a_line(
    small, monkeypatch, error, advice
):
    """Of the last photograph, alone in a short shard."""
    workspace, run = small
    true, last = (
        tasks.preprocess.shard.normalise,
        pathlib.Path(workspace.location).parent / "photos/train/2_right.jpeg",
    )

    def spoilt(data, params):
        if data == last.read_bytes():
            raise error
        return true(data, params)

    monkeypatch.setattr(tasks.preprocess.shard, "normalise", spoilt)
    monkeypatch.setattr(tasks.execution.waves, "TRY_AGAIN_AFTER_S", 0)
    with pytest.raises(
        UserError, match=f"1 of 2 shards failed and the others are done.*{advice}"
    ) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert workspace.rejects().empty
    assert [path.name for path in pathlib.Path(workspace.location).glob("fundus/*.ledger/*")] == [
        "000000.json"
    ]
    monkeypatch.undo()
    assert run().new_images == 1
    assert (workspace.fundus()["status"].values == DONE).all()


def test_an_ungradable_photograph_is_set_aside_and_tried_again_only_when_that_is_asked_for(
    small, monkeypatch
):
    workspace, run = small
    true, tried = tasks.preprocess.shard.normalise, []

    def spoilt(data, params):
        tried.append(1)
        if len(tried) == 2:
            raise UngradablePhoto("no_retina")
        return true(data, params)

    monkeypatch.setattr(tasks.preprocess.shard, "normalise", spoilt)
    run()
    assert workspace.rejects()["reason"].tolist() == ["no_retina"]
    assert run().new_images == 0
    assert run(retry=True).new_images == 1
    assert workspace.rejects().empty
    assert len(tried) == 5
    assert run(retry=True).new_images == 0


def test_a_drawn_disc_stands_for_no_photograph_when_a_culprit_is_looked_for(small, monkeypatch):
    workspace, _ = small
    seen = []
    monkeypatch.setattr(
        tasks.preprocess.shard,
        "normalise",
        lambda data, params: seen.append(normalise(data, params)),
    )
    tasks.preprocess.shard.try_photographs(
        [],
        (Source(photos=str(pathlib.Path(workspace.location).parent / "photos")),),
        PreprocessParams(),
    )
    assert seen[0].disc.diameter == pytest.approx(480, abs=4)
