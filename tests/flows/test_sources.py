"""Several sources in one catalogue: external eyes are never learnt from, copies stay together, and
the table of sources says all of it.
"""

import dataclasses

import cv2
import numpy as np
import pandas as pd
import pytest

from dr_lib.localisation import LocalisationParams
from dr_lib.synthetic import SynthesisParams, draw, plan
from flows.config import ConfigError, parse_config
from storage import open_workspace
from storage.photos.masks import MaskFile, MaskIndex
from storage.photos.sources import PhotoSource
from storage.photos.types import Problem, Source
from tasks.access.contact_sheets import Photos
from tasks.access.masks import masks_of, note_unused
from tasks.execution.pool import Pool
from tasks.ingest.step import ingest
from tasks.report.show import source_of
from tasks.run.errors import UserError
from tasks.run.session import Session
from tasks.run.settings import DaskParams, DataParams
from tests.storage.test_tables import example

PARAMS = SynthesisParams(seed=7, balanced=True, largest_px=700)


@pytest.fixture(scope="module")
def eyes():
    return [draw(eye, PARAMS).photo for eye in plan(12, PARAMS)]


@pytest.fixture
def session(tmp_path):
    return Session(open_workspace(tmp_path / "workspace"), Pool(DaskParams()))


def save(path, photo, width: int = 0, quality: int = 90):
    path.parent.mkdir(parents=True, exist_ok=True)
    if width:
        height = round(width * photo.shape[0] / photo.shape[1])
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


def two_sources(tmp_path, eyes) -> DataParams:
    """Kaggle's layout with eyes 0 to 7, and an external one in APTOS' with eyes 8 to 10, eye 0 as a
    smaller copy, and eye 2 as the same file.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    names = [f"{number // 2}_{('left', 'right')[number % 2]}" for number in range(8)]
    for name, photo in zip(names, eyes, strict=False):
        save(one / "train" / f"{name}.jpeg", photo)
    lines = [f"{name},{number % 5}" for number, name in enumerate(names)]
    (one / "trainLabels.csv").write_text("\n".join(["image,level", *lines]))
    for number in (8, 9, 10):
        save(two / "train_images" / f"e{number}.jpg", eyes[number])
    save(two / "train_images" / "copy of 0.jpg", eyes[0], width=400, quality=70)
    (two / "train_images" / "same.jpg").write_bytes((one / "train" / "1_left.jpeg").read_bytes())
    table = ["id_code,diagnosis", "e8,0", "e9,1", "e10,4", "copy of 0,0", "same,2"]
    (two / "train.csv").write_text("\n".join(table))
    return DataParams(
        sources=(Source(str(one), "kaggle"), Source(str(two), "far", use="external")),
        max_reject_fraction=1.0,
    )


def test_no_photograph_of_an_external_eye_is_learnt_from(tmp_path, eyes, session):
    result = ingest(session, two_sources(tmp_path, eyes))
    photos = session.workspace.photos().set_index("image_id")
    assert set(photos.loc[photos["source"] == "far", "split"]) == {"external"}
    assert photos.loc["kaggle/0_left", "split"] == "excluded", "a smaller copy is external"
    assert photos.loc["kaggle/0_right", "split"] == "excluded", "its fellow is the same patient's"
    assert photos.loc["kaggle/1_right", "split"] == "excluded", "its fellow is an external file"
    learnable = photos[photos["split"].isin(["train", "validation", "test"])]
    assert sorted(learnable.index) == [f"kaggle/{n}_{eye}" for n in (2, 3) for eye in ("left", "right")]  # fmt: skip
    rejects = session.workspace.rejects().set_index("image_id")
    assert rejects.loc["kaggle/1_left", "detail"] == "the same file as far/same"
    assert rejects.loc["kaggle/1_left", "source"] == "kaggle"
    rows = session.workspace.frame("sources").set_index("source")
    assert rows.loc["kaggle", ["layout", "photographs", "copies_across", "kept_from_learning"]].tolist() == ["eyepacs", 7, 2, 4]  # fmt: skip
    assert rows.loc["far", ["use", "layout", "photographs", "labelled", "patients"]].tolist() == ["external", "aptos", 5, 5, 5]  # fmt: skip
    shown = pd.DataFrame(result.table)
    assert shown["stages 0/1/2/3/4"].tolist()[1] == "2/1/1/0/1"


def test_copies_inside_a_source_without_patients_are_one_patient(tmp_path, eyes, session):
    folder = tmp_path / "clinic"
    for number in range(4):
        save(folder / f"{number}.jpg", eyes[number])
    save(folder / "0 klein.jpg", eyes[0], width=420, quality=60)
    (folder / "train.csv").write_text(
        "id_code,diagnosis\n" + "".join(f"{name},1\n" for name in ("0", "1", "2", "3", "0 klein"))
    )
    ingest(session, DataParams(photos=str(folder)))
    photos = session.workspace.photos().set_index("image_id")
    assert photos.loc["0", "patient_id"] == photos.loc["0 klein", "patient_id"]
    assert photos["patient_id"].nunique() == 4
    assert photos.loc["0", "split"] == photos.loc["0 klein", "split"]
    assert photos["copy_of"].notna().sum() == 1
    assert session.workspace.frame("sources")["copies_within"].tolist() == [1]


def test_a_second_ingest_reads_nothing_and_changes_nothing(tmp_path, eyes, session, monkeypatch):
    data = two_sources(tmp_path, eyes)
    ingest(session, data)
    before = {
        name: session.workspace.files.read(f"catalog/{name}.parquet")
        for name in ("photos", "rejects", "sources")
    }
    read, real = [], PhotoSource.read
    monkeypatch.setattr(
        PhotoSource, "read", lambda self, path: (read.append(path), real(self, path))[1]
    )
    assert ingest(session, data).new_images == 0
    assert [path for path in read if not path.endswith(".csv")] == []
    after = {name: session.workspace.files.read(f"catalog/{name}.parquet") for name in before}
    assert after == before


def test_a_new_copy_of_an_old_photograph_joins_its_patient_and_moves_nobody(
    tmp_path, eyes, session
):
    folder = tmp_path / "clinic"
    for number in range(4):
        save(folder / f"b{number}.jpg", eyes[number])
    ingest(session, DataParams(photos=str(folder)), labels_needed=False)
    before = session.workspace.photos().set_index("image_id")
    save(folder / "a.jpg", eyes[2], width=380)
    ingest(session, DataParams(photos=str(folder)), labels_needed=False)
    after = session.workspace.photos().set_index("image_id")
    assert after.loc["a", "patient_id"] == before.loc["b2", "patient_id"]
    assert after.loc["a", "copy_of"] == "b2" or after.loc["b2", "copy_of"] == "a"
    same = ["patient_id", "split", "position"]
    assert after.loc[before.index, same].equals(before[same])


def test_the_short_form_keeps_its_ids_and_looks_for_no_copies(tmp_path, eyes, session):
    folder = tmp_path / "photos" / "train"
    for number in range(4):
        save(folder / f"{number // 2}_{('left', 'right')[number % 2]}.jpeg", eyes[number])
    (folder.parent / "trainLabels.csv").write_text(
        "image,level\n0_left,0\n0_right,1\n1_left,2\n1_right,3\n"
    )
    ingest(session, DataParams(photos=str(folder.parent)))
    photos = session.workspace.photos()
    assert photos["image_id"].tolist() == ["0_left", "0_right", "1_left", "1_right"]
    assert photos["patient_id"].tolist() == ["0", "0", "1", "1"]
    assert photos["source"].isna().all()
    assert photos["fingerprint"].isna().all()
    assert photos["path"].tolist()[0] == "train/0_left.jpeg"


def test_a_catalogue_of_an_earlier_version_is_read_with_its_paths(tmp_path, eyes, session):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from storage.admin.catalog import query

    test_the_short_form_keeps_its_ids_and_looks_for_no_copies(tmp_path, eyes, session)
    workspace = session.workspace
    path = workspace.files.path("catalog/photos.parquet")
    table = pq.read_table(path).drop_columns(["source", "fingerprint", "copy_of"])
    names = ["source" if name == "path" else name for name in table.column_names]
    pq.write_table(pa.table(dict(zip(names, table.columns, strict=True))), path)
    photos = workspace.photos()
    assert photos["path"].tolist()[0] == "train/0_left.jpeg"
    assert photos["source"].isna().all()
    assert query(workspace, "select path from photos order by position")["path"].tolist()[0] == (
        "train/0_left.jpeg"
    )
    result = ingest(session, DataParams(photos=str(tmp_path / "photos")))
    assert result.new_images == 0


def test_each_sources_masks_are_found_at_their_own_place(tmp_path):
    """Named in the source, for all in [localisation], or beside the photographs; equal names in two
    sources stay two photographs.
    """
    workspace = open_workspace(tmp_path / "workspace")
    homes = ["near", "near", "far"]
    frame = example("photos").assign(
        position=range(3),
        image_id=["near/1", "near/2", "far/1"],
        path=["near/1.jpg", "near/2.jpg", "far/1.jpg"],
        source=homes,
    )
    workspace.write_table("photos", frame)
    places = [tmp_path / "near" / "masks" / "1.png", tmp_path / "lesions" / "1_MA.tif"]
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(b"")
    near = Source(str(tmp_path / "near"), "near")
    far = Source(str(tmp_path / "far"), "far", masks=str(places[1].parent))
    index = masks_of(workspace, (near, far), LocalisationParams())
    assert index.files == {
        "near/1": (MaskFile(str(places[0])),),
        "far/1": (MaskFile(str(places[1]), "microaneurysm"),),
    }
    assert (
        masks_of(workspace, (Source(str(tmp_path / "far"), "far"),), LocalisationParams()) is None
    )
    both = LocalisationParams(masks=str(places[1].parent))
    assert set(masks_of(workspace, (near,), both).files) == {"near/1"}


SOURCES = {"workspace": "w", "data": {"sources": [{"name": "a", "photos": "p"}]}}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({}, "data.photos is missing"),
        ({"photos": "p", "sources": [{"name": "a", "photos": "p"}]}, "both given"),
        ({"sources": [{"photos": "p"}]}, "needs a name"),
        ({"sources": [{"name": "a", "photos": "p"}, {"name": "A", "photos": "q"}]}, "one name"),
        (
            {"sources": [{"name": "a", "photos": "p", "patients": "x"}]},
            "unknown key data.sources.patients; did you mean data.sources.patient?",
        ),
        ({"sources": [{"name": "a"}]}, "data.sources.photos is missing; give it in each [[data.so"),
        ({"sources": [{"name": "a", "photos": "p", "use": "test"}]}, "use"),
        ({"sources": {"name": "a", "photos": "p"}}, "write [[data.sources]]"),
        ({"sources": [{"name": "a", "photos": "p", "patient": "("}]}, "no regular expression"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_source_is_a_line(data, found):
    with pytest.raises(ConfigError) as caught:
        parse_config({"workspace": "w", "data": data})
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_of_model_and_explanation_do_not_depend_on_sources():
    short = parse_config({"workspace": "w", "data": {"photos": "p"}})
    listed = parse_config(SOURCES)
    assert listed.recipe == short.recipe
    assert listed.data.every_source == (Source(name="a", photos="p"),)
    assert dataclasses.replace(short.data).every_source == (Source(photos="p"),)
    assert np.array_equal(short.data.places, "p")


def test_a_second_source_added_later_is_refused_before_it_renames_the_first(
    tmp_path, eyes, session
):
    both = two_sources(tmp_path, eyes)
    ingest(session, dataclasses.replace(both, sources=both.sources[:1]))
    before = session.workspace.photos()
    with pytest.raises(
        UserError, match="8 photographs would get other ids, such as kaggle/"
    ) as told:
        ingest(session, both)
    assert "give another workspace to these sources, or the former" in str(told.value)
    assert session.workspace.photos().equals(before)


def test_masks_that_are_not_used_are_a_table_that_outlasts_runs_in_which_none_is_opened(tmp_path):
    workspace = open_workspace(tmp_path / "workspace")
    strange = Problem("/masks/1_drusen.png", "near/1", "unknown_lesion_type", "drusen")
    index, unfit = MaskIndex({}, (strange, strange)), Problem(None, "near/2", "mask_size", "small")
    note_unused(workspace, index, [unfit])
    rows = workspace.frame("unused_masks")
    assert rows["reason"].tolist() == ["unknown_lesion_type", "mask_size"]
    assert rows["source"].tolist() == ["near", "near"]
    note_unused(workspace, index, None)
    assert workspace.frame("unused_masks").equals(rows)
    note_unused(workspace, index, [])
    assert workspace.frame("unused_masks")["reason"].tolist() == ["unknown_lesion_type"]


def test_a_photograph_is_shown_from_the_folder_of_its_own_source(tmp_path, eyes, session):
    data = two_sources(tmp_path, eyes)
    ingest(session, data)
    shown = {
        name: Photos(session.workspace, source_of(session.workspace, name, folder)).get(name)
        for name, folder in (("kaggle/0_left", "one"), ("far/e8", "two"))
        for folder in [str(tmp_path / folder)]
    }
    assert all(photo is not None for photo in shown.values())
