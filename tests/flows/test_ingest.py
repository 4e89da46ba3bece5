"""The catalogue: what enters it, what is set aside with which reason, and that a photograph
never moves.
"""

import os
import shutil
import zipfile

import pytest

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import PreprocessParams
from dr_lib.network.model import ModelParams
from dr_lib.training import TrainingParams
from storage import open_workspace
from storage.admin.catalog import query
from storage.photos.listing import Listing
from storage.photos.sources import PhotoSource
from storage.photos.types import Source
from tasks.attribute.planning import check_run
from tasks.execution.pool import Pool
from tasks.ingest.step import ingest
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe
from tasks.run.session import Session, open_session
from tasks.run.settings import DaskParams, DataParams, StorageParams


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


@pytest.fixture
def read(monkeypatch):
    """The photographs whose bytes were read so far, by name."""
    found, real = [], PhotoSource.read

    def counted(self, path):
        if path.endswith("eg"):
            found.append(path.rpartition("/")[2].removesuffix(".jpeg"))
        return real(self, path)

    monkeypatch.setattr(PhotoSource, "read", counted)
    return found


def test_photographs_are_listed_once_a_run(photos, tmp_path, monkeypatch):
    """The look at whether a run will fit, and the catalogue, share one listing."""
    listed, entries = [], Listing.entries

    def counted(listing):
        listed.append(listing.root)
        return entries(listing)

    monkeypatch.setattr(Listing, "entries", counted)
    location = str(tmp_path / "workspace")
    recipe = Recipe(PreprocessParams(size=64), ModelParams(), TrainingParams(), AttributionParams())
    with open_session(location, DaskParams()) as session:
        check_run(location, (Source(str(photos)),), recipe, StorageParams(), DaskParams())
        assert ingest(session, DataParams(str(photos))).images == 8
    assert listed == [photos]


def written_over(path, content):
    """Replaces a file's content by some of the same length, and puts its times back."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


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
    assert (result.images, result.new_images) == (
        9,
        9,
    ), "a cut file has a whole header: decoding it is what finds out"


def test_a_photograph_keeps_its_position_when_others_come_and_go(photos, session):
    data = DataParams(photos=str(photos))
    ingest(session, data)
    before = session.workspace.photos().set_index("image_id")["position"].to_dict()
    (photos / "train" / "1_left.jpeg").unlink()
    shutil.copy(photos / "train" / "2_left.jpeg", photos / "0_left.jpeg")
    shutil.move(photos / "0_left.jpeg", photos / "train" / "0_left.jpeg")
    (photos / "train" / "2_left.jpeg").write_bytes(
        (photos / "train" / "3_left.jpeg").read_bytes() + b"\0"
    )
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
    (photos / "retinopathy_solution.csv").write_text(
        "\n".join(["image,level,Usage", *solution]) + "\n"
    )
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
    assert session.workspace.photos()["image_id"].tolist() == [
        "1_left",
        "1_right",
        "2_left",
        "2_right",
    ]


def test_a_folder_that_is_plainly_wrong_stops_the_run_and_says_so(photos, session):
    for path in (photos / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"100\s% of the photographs .* empty"):
        ingest(session, DataParams(photos=str(photos)))
    assert set(reasons(session).values()) == {"empty"}, "the reasons are there to look at"


def test_an_empty_folder_is_told(tmp_path, session):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="no usable photograph"):
        ingest(session, DataParams(photos=str(tmp_path / "nothing")))


def test_what_has_not_changed_is_not_read_again(photos, session, read):
    data = DataParams(photos=str(photos))
    train = photos / "train"
    shutil.copy(train / "1_left.jpeg", train / "52_left.jpeg")
    (train / "50_left.jpeg").write_bytes(b"")
    (train / "51_left.jpeg").write_bytes(b"not a photograph at all")
    label(photos, "50_left,0", "51_left,1", "52_left,2")
    ingest(session, data)
    assert len(read) == 11
    first = session.workspace.photos(), session.workspace.rejects()
    read.clear()
    assert ingest(session, data).new_images == 0
    assert read == [], "neither photographs nor those set aside"
    assert first[0].equals(session.workspace.photos())
    assert first[1].equals(session.workspace.rejects())
    # What was set aside for its content is looked at again once it is mended.
    (train / "50_left.jpeg").write_bytes((train / "2_left.jpeg").read_bytes() + b"\0")
    result = ingest(session, data)
    assert read == ["50_left"]
    assert (result.new_images, reasons(session)) == (
        1,
        {"51_left": "not_an_image", "52_left": "duplicate_content"},
    )


def test_a_change_of_the_same_length_is_seen_and_a_touch_is_no_new_work(photos, session, read):
    data = DataParams(photos=str(photos))
    ingest(session, data)
    before = session.workspace.photos().set_index("image_id")
    read.clear()
    touched, changed = photos / "train" / "1_left.jpeg", photos / "train" / "1_right.jpeg"
    touched.touch()
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1
    changed.write_bytes(content)
    result = ingest(session, data)
    after = session.workspace.photos().set_index("image_id")
    assert sorted(read) == ["1_left", "1_right"]
    assert result.new_images == 1
    assert after.loc["1_left", "sha256"] == before.loc["1_left", "sha256"]
    assert after.loc["1_right", "sha256"] != before.loc["1_right", "sha256"]
    read.clear()
    ingest(session, data)
    assert read == [], "the touched one's new time is remembered"


def test_rehash_sees_a_change_behind_an_unchanged_size_and_time(photos, session, read):
    ingest(session, DataParams(photos=str(photos)))
    path = photos / "train" / "1_right.jpeg"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    written_over(path, content)
    assert ingest(session, DataParams(photos=str(photos))).new_images == 0, "a stamp cannot tell"
    read.clear()
    assert ingest(session, DataParams(photos=str(photos), rehash=True)).new_images == 1
    assert len(read) == 8


def test_a_second_copy_takes_the_place_of_a_first_that_is_gone_without_being_read(
    photos, session, read
):
    train = photos / "train"
    shutil.copy(train / "1_left.jpeg", train / "52_left.jpeg")
    label(photos, "52_left,2")
    data = DataParams(photos=str(photos))
    ingest(session, data)
    (train / "1_left.jpeg").unlink()
    read.clear()
    assert ingest(session, data).new_images == 1
    assert read == []
    rows = session.workspace.photos().set_index("image_id")
    same = ["bytes", "width_px", "height_px", "sha256"]
    assert rows.loc["52_left", same].tolist() == rows.loc["1_left", same].tolist()
    assert rows["present"].to_dict() == {name: name != "1_left" for name in rows.index}


def test_one_that_could_not_be_read_is_tried_again_though_nothing_changed_on_it(
    photos, session, monkeypatch
):
    real = PhotoSource.read

    def broken(self, path):
        if path.endswith("1_left.jpeg"):
            raise OSError(5, "Input/output error")
        return real(self, path)

    monkeypatch.setattr(PhotoSource, "read", broken)
    ingest(session, DataParams(photos=str(photos)))
    assert reasons(session) == {"1_left": "unreadable"}
    monkeypatch.setattr(PhotoSource, "read", real)
    assert ingest(session, DataParams(photos=str(photos))).new_images == 1
    assert reasons(session) == {}


def test_an_archive_packed_anew_is_not_read_again_but_for_what_changed(photos, session, read):
    unpacked = photos.parent / "unpacked"
    shutil.move(photos / "train", unpacked)
    names = sorted(path.name for path in unpacked.iterdir())

    def pack(names, compression):
        with zipfile.ZipFile(photos / "train.zip", "w", compression) as file:
            for name in names:
                file.write(unpacked / name, f"train/{name}")

    data = DataParams(photos=str(photos))
    pack(names, zipfile.ZIP_STORED)
    assert ingest(session, data).images == 8
    read.clear()
    changed = unpacked / "1_left.jpeg"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    pack(names[::-1], zipfile.ZIP_DEFLATED)
    assert ingest(session, data).new_images == 1
    assert read == ["1_left"]


def test_a_catalogue_from_before_there_were_stamps_is_brought_up_to_date(photos, session, read):
    data = DataParams(photos=str(photos))
    ingest(session, data)
    whole = session.workspace.photos()
    path = session.workspace.files.path("catalog/photos.parquet")
    whole.drop(columns="stamp").to_parquet(path)
    assert query(session.workspace, "select count(*) rows, count(stamp) stamps from photos").iloc[
        0
    ].tolist() == [8, 0]
    read.clear()
    assert ingest(session, data).new_images == 0
    assert len(read) == 8
    assert session.workspace.photos().equals(whole)


def test_no_photograph_is_read_in_the_tick_of_its_last_change(photos, session, read, monkeypatch):
    waited = []

    def wait(stamps):
        assert read == []
        waited.extend(stamps)

    monkeypatch.setattr("tasks.ingest.inspection.wait_until_settled", wait)
    ingest(session, DataParams(photos=str(photos)))
    assert sorted(waited) == sorted(session.workspace.photos()["stamp"])
    assert len(read) == 8


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (
            "1_left,0\n",
            (
                r"trainLabels.csv cannot be used as labels: its first line is '1_left,0'; expected"
                r" .* columns image and level"
            ),
        ),
        (None, "holds 8 photographs and no label file"),
    ],
    ids=["without a header", "none"],
)
def test_labels_that_cannot_be_used_end_ingest_before_a_photograph_is_read(
    photos, session, read, labels, line
):
    path = photos / "trainLabels.csv"
    path.write_text(labels) if labels else path.unlink()
    with pytest.raises(UserError, match=line) as caught:
        ingest(session, DataParams(photos=str(photos)))
    assert "\n" not in str(caught.value)
    assert read == []
    assert session.workspace.photos().empty


def test_a_model_that_is_there_needs_no_labels_but_none_that_contradict_each_other(photos, session):
    labels = (photos / "trainLabels.csv").read_text()
    (photos / "trainLabels.csv").unlink()
    data = DataParams(photos=str(photos))
    assert ingest(session, data, labels_needed=False).images == 8
    (photos / "trainLabels.csv").write_text(labels)
    (photos / "backup").mkdir()
    (photos / "backup" / "trainLabels.csv").write_text("image,level\n1_left,4\n")
    with pytest.raises(
        UserError, match=r"backup/trainLabels.csv and .*photos/trainLabels.csv disagree"
    ):
        ingest(session, data, labels_needed=False)


def test_labels_of_the_test_alone_are_told_before_anything_is_learnt(photos, session):
    (photos / "test").mkdir()
    shutil.move(photos / "train" / "1_left.jpeg", photos / "test" / "1_left.jpeg")
    (photos / "trainLabels.csv").unlink()
    (photos / "retinopathy_solution.csv").write_text("image,level,Usage\n1_left,0,Private\n")
    with pytest.raises(
        UserError,
        match=r"none of the 7 photographs to learn from .* has a label; add trainLabels.csv",
    ):
        ingest(session, DataParams(photos=str(photos)))


def test_most_labels_set_aside_stop_the_run_and_say_which(photos, session):
    lines = (photos / "trainLabels.csv").read_text().splitlines()
    spoilt = [line.split(",")[0] + ",mild" for line in lines[1:6]]
    (photos / "trainLabels.csv").write_text("\n".join([lines[0], *spoilt, *lines[6:]]) + "\n")
    with pytest.raises(
        UserError,
        match=(
            r"62\s% of the labels .* malformed_row \(5, such as trainLabels.csv:2: level 'mild' is"
            r" not a number\)"
        ),
    ):
        ingest(session, DataParams(photos=str(photos)))
    assert ingest(session, DataParams(photos=str(photos), max_reject_fraction=0.7)).images == 3


def test_second_copies_are_no_sign_of_a_wrong_folder(photos, session):
    """A joined zip beside its parts, a folder of copies, and photographs exported twice under
    other names.
    """
    for name in ("train (joined)", "copies"):
        shutil.copytree(photos / "train", photos / name)
    for number, path in enumerate(sorted((photos / "train").iterdir()), 900):
        shutil.copy(path, photos / "train" / f"{number}_left.jpeg")
        label(photos, f"{number}_left,0")
    result = ingest(session, DataParams(photos=str(photos), max_reject_fraction=0.0))
    assert result.images == 8
    assert result.message.endswith("set aside: 16 duplicate_id, 8 duplicate_content")


def test_what_is_set_aside_most_is_told_with_an_example(photos, session, tmp_path):
    shutil.move(photos / "train", tmp_path / "elsewhere")
    (photos / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        UserError,
        match=(
            r"100\s% of the photographs .* mostly outside_folder \(1, such as train: a link .*"
            r" \(cp -rL"
        ),
    ):
        ingest(session, DataParams(photos=str(photos)))
