"""The catalogue: what enters it, what is set aside with which reason, and that a photograph never moves."""

import shutil

import pytest

from storage import open_workspace
from tasks.errors import UserError
from tasks.ingest import ingest
from tasks.pool import Pool
from tasks.session import Session
from tasks.settings import DaskParams, DataParams


@pytest.fixture
def photos(drawn_photos, tmp_path):
    """A copy of eight drawn photographs with their labels."""
    folder = tmp_path / "photos"
    (folder / "train").mkdir(parents=True)
    lines = (drawn_photos / "trainLabels.csv").read_text().splitlines()[:9]
    (folder / "trainLabels.csv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        name = f"train/{line.split(',')[0]}.jpeg"
        shutil.copy(drawn_photos / name, folder / name)
    return folder


@pytest.fixture
def session(tmp_path):
    return Session(open_workspace(tmp_path / "workspace"), Pool(DaskParams()))


def label(photos, *lines):
    with (photos / "trainLabels.csv").open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def reasons(session):
    rejects = session.workspace.rejects()
    return dict(zip(rejects["image_id"], rejects["reason"], strict=True))


def test_each_kind_of_bad_input_is_a_row_with_its_reason(photos, session):
    train = photos / "train"
    (train / "50_left.jpeg").write_bytes(b"")
    (train / "51_left.jpeg").write_bytes(b"not a photograph at all")
    whole = (train / "1_left.jpeg").read_bytes()
    (train / "52_left.jpeg").write_bytes(whole)
    (train / "53_left.jpeg").write_bytes(whole[: len(whole) // 2])
    label(photos, "50_left,0", "51_left,1", "52_left,2", "53_left,0", "54_left,3", "55_left,9")
    result = ingest(session, DataParams(photos=str(photos)))
    found = reasons(session)
    assert found["50_left"] == "empty"
    assert found["51_left"] == "not_an_image"
    assert found["52_left"] == "duplicate_content"
    assert found["54_left"] == "no_photograph"
    assert found["55_left"] == "stage_out_of_range"
    detail = session.workspace.rejects().set_index("image_id").loc["52_left", "detail"]
    assert detail == "the same file as 1_left"
    assert (result.images, result.new_images) == (9, 9), "a cut file has a whole header: decoding it is what finds out"


def test_a_photograph_keeps_its_position_when_others_come_and_go(photos, session):
    data = DataParams(photos=str(photos))
    ingest(session, data)
    before = session.workspace.photos().set_index("image_id")["position"].to_dict()
    (photos / "train" / "1_left.jpeg").unlink()
    shutil.copy(photos / "train" / "2_left.jpeg", photos / "0_left.jpeg")
    shutil.move(photos / "0_left.jpeg", photos / "train" / "0_left.jpeg")
    (photos / "train" / "2_left.jpeg").write_bytes((photos / "train" / "3_left.jpeg").read_bytes() + b"\0")
    label(photos, "0_left,0")
    result = ingest(session, data)
    after = session.workspace.photos().set_index("image_id")
    assert {name: after.loc[name, "position"] for name in before} == before
    assert after.loc["0_left", "position"] == len(before), "new ones stand behind"
    assert not after.loc["1_left", "present"]
    assert result.new_images == 2, "the new one and the changed one"


def test_nothing_new_changes_no_byte(photos, session):
    data = DataParams(photos=str(photos))
    ingest(session, data)
    before = session.workspace.files.read("catalog/photos.parquet")
    assert ingest(session, data).new_images == 0
    assert session.workspace.files.read("catalog/photos.parquet") == before


def test_both_eyes_of_a_patient_share_a_split_and_kaggles_usage_is_honoured(photos, session):
    test = photos / "test"
    test.mkdir()
    for patient in (3, 4):
        for eye in ("left", "right"):
            shutil.move(photos / "train" / f"{patient}_{eye}.jpeg", test / f"{patient}_{eye}.jpeg")
    lines = (photos / "trainLabels.csv").read_text().splitlines()
    (photos / "trainLabels.csv").write_text("\n".join(lines[:5]) + "\n")
    usage = {"3": "Public", "4": "Private"}
    solution = [f"{line},{usage[line.split('_')[0]]}" for line in lines[5:9]]
    (photos / "retinopathy_solution.csv").write_text("\n".join(["image,level,Usage", *solution]) + "\n")
    ingest(session, DataParams(photos=str(photos)))
    splits = session.workspace.photos().groupby("patient_id")["split"].unique()
    assert {patient: list(found) for patient, found in splits.items()} == {
        "1": ["train"],
        "2": ["train"],
        "3": ["validation"],
        "4": ["test"],
    }


def test_a_limit_takes_whole_patients(photos, session):
    ingest(session, DataParams(photos=str(photos), limit=3))
    assert session.workspace.photos()["image_id"].tolist() == ["1_left", "1_right", "2_left", "2_right"]


def test_a_folder_that_is_plainly_wrong_stops_the_run_and_says_so(photos, session):
    for path in (photos / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"100% of the photographs .* empty"):
        ingest(session, DataParams(photos=str(photos)))
    assert set(reasons(session).values()) == {"empty"}, "the reasons are there to look at"


def test_an_empty_folder_is_told(tmp_path, session):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="no usable photograph"):
        ingest(session, DataParams(photos=str(tmp_path / "nothing")))
