"""Kaggle's files as they are downloaded, split zips and zipped labels, go through ingest and
preprocessing with nothing unpacked.
"""

import pathlib
import re
import zipfile

import numpy as np
import pytest
from typer.testing import CliRunner

import tasks.attribute.planning
import tasks.preprocess.step
from dr_lib.drawing.figures import jpeg
from flows.cli.main import app
from flows.config import load_config
from storage import open_workspace
from storage.photos.listing import Listing
from tasks.attribute.calibration import sample
from tasks.attribute.planning import check_run, plan
from tasks.ingest.step import ingest
from tasks.preprocess.step import preprocess
from tasks.run.session import Session
from tests.flows.inline import InlinePool, ingest_and_preprocess, run_here
from tests.unit.fundus_drawing import Eye

README = pathlib.Path(__file__).parents[2] / "README.md"
TRAIN = {"10_left": 0, "10_right": 0, "13_left": 1, "13_right": 2, "15_left": 3, "15_right": 4}
TEST = {
    "1_left": (0, "Public"),
    "1_right": (2, "Public"),
    "2_left": (4, "Private"),
    "2_right": (0, "Private"),
}


def drawn(image_id):
    number = [*TRAIN, *TEST].index(image_id)
    eye = Eye(
        height=300,
        width=400,
        centre_y=149.5,
        centre_x=199.5,
        diameter=250.0 + 2 * number,
        angle=9.0 * number,
    )
    return jpeg(eye.draw(), 90)


@pytest.fixture(scope="module")
def photographs():
    return {f"train/{name}.jpeg": drawn(name) for name in TRAIN} | {
        f"test/{name}.jpeg": drawn(name) for name in TEST
    }


TRAIN_CSV = "image,level\n" + "".join(f"{name},{level}\n" for name, level in TRAIN.items())
SOLUTION = "image,level,Usage\n" + "".join(
    f"{name},{level},{usage}\n" for name, (level, usage) in TEST.items()
)


def pack(path, files, parts=1, compression=zipfile.ZIP_DEFLATED):
    """A zip file, cut by bytes into so many parts, which is what Kaggle's `.zip.001` files are."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    if parts > 1:
        whole = path.read_bytes()
        path.unlink()
        step = -(-len(whole) // parts)
        for number in range(parts):
            path.with_name(f"{path.name}.{number + 1:03}").write_bytes(
                whole[number * step : (number + 1) * step]
            )


@pytest.fixture
def kaggle(tmp_path, photographs):
    folder = tmp_path / "kaggle"
    folder.mkdir()
    train, test = (
        {name: data for name, data in photographs.items() if name.startswith(split)}
        for split in ("train", "test")
    )
    pack(folder / "train.zip", {"train/": b"", **train}, parts=5)
    pack(folder / "test.zip", {"test/": b"", **test}, parts=7, compression=zipfile.ZIP_STORED)
    pack(folder / "sample.zip", {"sample/10_left.jpeg": photographs["train/10_left.jpeg"]})
    pack(folder / "trainLabels.csv.zip", {"trainLabels.csv": TRAIN_CSV})
    pack(folder / "sampleSubmission.csv.zip", {"sampleSubmission.csv": "image,level\n1_left,0\n"})
    (folder / "retinopathy_solution.csv").write_text(SOLUTION)
    return folder


@pytest.fixture
def unpacked(tmp_path, photographs):
    folder = tmp_path / "unpacked"
    for name, data in photographs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "trainLabels.csv").write_text(TRAIN_CSV)
    (folder / "retinopathy_solution.csv").write_text(SOLUTION)
    return folder


def test_the_download_as_it_is_gives_what_the_unpacked_folder_gives(
    kaggle, unpacked, tmp_path, monkeypatch
):
    opened, real = [], zipfile.ZipFile._RealGetContents
    monkeypatch.setattr(
        zipfile.ZipFile, "_RealGetContents", lambda self: (opened.append(1), real(self))[1]
    )
    there, stages = ingest_and_preprocess(monkeypatch, tmp_path / "there", photos=str(kaggle))
    assert [stage.images for stage in stages] == [10, 10]
    assert len(opened) == 4, (
        "train, test and sample once each, whoever reads from them, and the labels"
    )
    here, _ = ingest_and_preprocess(monkeypatch, tmp_path / "here", photos=str(unpacked))

    columns = [
        "position",
        "image_id",
        "patient_id",
        "stage",
        "split",
        "usage",
        "bytes",
        "width_px",
        "height_px",
        "sha256",
    ]
    assert there.workspace.photos()[columns].equals(here.workspace.photos()[columns])
    assert np.array_equal(
        there.workspace.fundus()["pixels"].values, here.workspace.fundus()["pixels"].values
    )
    photos = there.workspace.photos().set_index("image_id")
    assert photos["stage"].to_dict() == TRAIN | {name: level for name, (level, _) in TEST.items()}
    assert photos["split"].to_dict() == dict.fromkeys(TRAIN, "train") | {
        name: {"Public": "validation", "Private": "test"}[usage]
        for name, (_, usage) in TEST.items()
    }
    assert photos.loc["13_right", "path"] == "train.zip.001/train/13_right.jpeg"
    rejects = there.workspace.rejects()
    assert rejects[["path", "reason"]].values.tolist() == [
        ["sample.zip/sample/10_left.jpeg", "duplicate_id"]
    ]
    assert here.workspace.rejects().empty


def test_a_second_look_at_the_download_reads_no_photograph(kaggle, tmp_path, monkeypatch):
    ingest_and_preprocess(monkeypatch, tmp_path / "workspace", photos=str(kaggle))
    read, real = [], Listing.read
    monkeypatch.setattr(
        Listing, "read", lambda self, path: (read.append(path), real(self, path))[1]
    )
    _, stages = ingest_and_preprocess(monkeypatch, tmp_path / "workspace", photos=str(kaggle))
    assert [stage.new_images for stage in stages] == [0, 0]
    assert sorted(read) == ["retinopathy_solution.csv", "trainLabels.csv.zip"]


def test_unpacking_later_is_no_new_work(kaggle, photographs, tmp_path, monkeypatch):
    ingest_and_preprocess(monkeypatch, tmp_path / "workspace", photos=str(kaggle))
    for name, data in photographs.items():
        (kaggle / name).parent.mkdir(exist_ok=True)
        (kaggle / name).write_bytes(data)
    session, stages = ingest_and_preprocess(monkeypatch, tmp_path / "workspace", photos=str(kaggle))
    assert [(stage.images, stage.new_images) for stage in stages] == [(10, 0), (10, 0)]
    assert session.workspace.photos()["path"].tolist()[:2] == [
        "test/1_left.jpeg",
        "test/1_right.jpeg",
    ]


def test_a_part_that_is_missing_is_named_and_the_others_are_used(kaggle, tmp_path, monkeypatch):
    (kaggle / "train.zip.003").unlink()
    session, stages = ingest_and_preprocess(
        monkeypatch, tmp_path / "workspace", photos=str(kaggle), max_reject_fraction=0.9
    )
    assert [stage.images for stage in stages] == [
        5,
        5,
    ], "the test photographs, and the one of the sample"
    row = session.workspace.rejects().set_index("reason").loc["bad_archive"]
    assert row["path"] == "train.zip.001"
    assert row["detail"].endswith("train.zip.003 is missing between the parts of train.zip")


def test_the_readmes_commands_in_their_order_on_a_fresh_workspace(
    kaggle, tiny_config, tmp_path, monkeypatch
):
    """`dr plan` measures photographs before there is a workspace, and again after each step
    until the run.
    """
    assert re.findall(r"dr (\w+) +deployments/kaggle.toml", README.read_text()) == [
        "plan",
        "ingest",
        "preprocess",
        "run",
    ]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks.attribute.planning, "Pool", InlinePool)
    path = tiny_config(kaggle)
    fewer = "attribution.layers=['stem']"
    # Explained in float32, whatever it will be trained in.
    trained_in = ["--set", "model.mixed_precision=bfloat16"]
    result = CliRunner().invoke(app, ["plan", str(path), "--set", fewer, *trained_in])
    assert result.exit_code == 0, result.output
    assert "calibration on 4 eyes a worker, untrained network" in result.output
    assert not (tmp_path / "workspace").exists()

    config = load_config(path, [fewer])
    session = Session(open_workspace(config.workspace), InlinePool())
    run_here(monkeypatch, tasks.preprocess.step)
    given = (config.workspace, config.data.every_source, config.recipe, config.storage, config.dask)
    for step in (ingest, preprocess):
        arguments = (
            (config.data,) if step is ingest else (config.recipe, config.data, config.storage)
        )
        step(session, *arguments)
        rows, refusal = plan(*given, measure=False)
        assert refusal is None
        assert [row["to do"] for row in rows[:2]] == [0, 0 if step is preprocess else 10]
        assert sample(session.workspace, config.recipe, config.data.every_source, 5).shape == (
            5,
            64,
            64,
            3,
        )
    check_run(*given)
