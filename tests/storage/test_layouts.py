"""Published layouts are recognised without settings, private tables by two; what is ambiguous is a
question, and every name that is safe in a path is an id.
"""

import unicodedata

import pytest

from storage.errors import Refused
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tests.storage.small import photo_source
from tests.storage.test_source import JPEG, csv, reasons, write, zipped

IDRID = "Image name,Retinopathy grade,Risk of macular edema ,,"
LAYOUTS = {
    "eyepacs": (
        {"train/10_left.jpeg": JPEG, "train/10_right.jpeg": JPEG, "trainLabels.csv": csv("10_left,0", "10_right,4")},
        {"10_left": 0, "10_right": 4},
    ),
    "eyepacs under another name": (
        {"images/10_left.PNG": JPEG, "labels.csv": csv("10_left.png,0")},
        {"10_left": 0},
    ),
    "aptos": (
        {
            "train_images/0a1b.png": JPEG,
            "train.csv": csv("0a1b,3", header="id_code,diagnosis"),
            "test_images/ff00.png": JPEG,
            "test.csv": csv("ff00", header="id_code"),
            "sample_submission.csv": csv("ff00,0", header="id_code,diagnosis"),
        },
        {"0a1b": 3},
    ),
    "messidor2": (
        {
            "IMAGES/20051020_43808_0100_PP.JPG": JPEG,
            "IMAGES/IM004811.tif": JPEG,
            "messidor_data.csv": csv(
                "20051020_43808_0100_PP.png,0,0,1", "IM004811.jpg,,,0",
                header="id_code,diagnosis,adjudicated_dme,adjudicated_gradable",
            ),
        },
        {"20051020_43808_0100_PP": 0},
    ),
    "messidor2 in its older names": (
        {
            "IM004811.jpg": JPEG,
            "messidor_data.csv": csv(
                "IM004811.jpg,2,0,1",
                header="image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable",
            ),
        },
        {"IM004811": 2},
    ),
    "idrid": (
        {
            "B. Disease Grading/1. Original Images/a. Training Set/IDRiD_001.jpg": JPEG,
            "B. Disease Grading/1. Original Images/b. Testing Set/IDRiD_001.jpg": JPEG,
            "B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv": csv("IDRiD_001,3,2,,", header=IDRID),
            "B. Disease Grading/2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv": csv("IDRiD_001,4,0,,", header=IDRID),
            "A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg": JPEG,
            "A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/1. Microaneurysms/IDRiD_01_MA.tif": JPEG,
        },
        {"train_IDRiD_001": 3, "test_IDRiD_001": 4},
    ),
    "ddr": (
        {
            "DR_grading/train/007-0004-000.jpg": JPEG,
            "DR_grading/train/007-0004-001.jpg": JPEG,
            "DR_grading/train.txt": "007-0004-000.jpg 0\n007-0004-001.jpg 5\n",
            "DR_grading/valid/007-1774-100.jpg": JPEG,
            "DR_grading/valid.txt": "007-1774-100.jpg 2\n",
            "lesion_segmentation/train/label/EX/007-0004-000.tif": JPEG,
        },
        {"007-0004-000": 0, "007-1774-100": 2},
    ),
    "ddr as one table": (
        {"images/007-0004-000.jpg": JPEG, "DR_grading.csv": csv("007-0004-000.jpg,1", header="id_code,diagnosis")},
        {"007-0004-000": 1},
    ),
    "folders by class": (
        {"No_DR/a.png": JPEG, "Proliferate_DR/b.png": JPEG},
        {"a": 0, "b": 4},
    ),
    "folders by class in numbers": (
        {"train/0/a.png": JPEG, "train/3/b.png": JPEG, "test/1/c.png": JPEG},
        {"a": 0, "b": 3, "c": 1},
    ),
}  # fmt: skip


def stages(source: PhotoSources) -> dict[str, int]:
    labels = source.labels()
    return dict(zip(labels["image_id"], labels["stage"].tolist(), strict=True))


@pytest.mark.parametrize("packed", [False, True], ids=["a folder", "a zip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_is_recognised_without_settings(tmp_path, name, packed):
    files, expected = LAYOUTS[name]
    plain = {at: data.encode() if isinstance(data, str) else data for at, data in files.items()}
    place = zipped(tmp_path / "all.zip", plain) if packed else write(tmp_path / "data", files)
    source = photo_source(place)
    assert (
        source.parts[0].found.layout
        == name.partition(" under")[0].partition(" in")[0].partition(" as")[0]
    )
    assert source.label_fault() is None
    assert stages(source) == expected
    told = {"ungradable"} if name == "messidor2" or name == "ddr" else set()
    assert set(reasons(source).values()) == told
    assert set(expected) <= {photo.image_id for photo in source.photographs()}


def test_photographs_that_have_masks_instead_of_stages_are_kept_and_masks_are_none(tmp_path):
    source = photo_source(write(tmp_path, LAYOUTS["idrid"][0]))
    ids = {photo.image_id for photo in source.photographs()}
    assert ids == {"IDRiD_01", "train_IDRiD_001", "test_IDRiD_001"}
    assert source.problems() == []


def test_patients_and_eyes_come_from_names_and_are_unknown_where_names_do_not_say(tmp_path):
    whose = {
        name: next((photo.patient, photo.eye) for photo in photo_source(write(tmp_path / name, LAYOUTS[name][0])).photographs())
        for name in ("eyepacs", "aptos", "ddr")
    }  # fmt: skip
    assert whose == {"eyepacs": ("10", "left"), "aptos": (None, None), "ddr": ("007-0004", None)}


CLINIC = {
    f"{folder}/{patient} {day} {eye}.JPG": JPEG
    for patient, folder in (("Müller, Anna", "M"), ("von der Höh", "v"))
    for day in ("2019-03-01", "01.04.2020", "2021-05-07")
    for eye in ("OD", "OS")
}
VISITS = r"(?P<patient>.+) (?P<day>\d\S+) (?P<eye>OD|OS)"


def clinic(tmp_path, table: str, encoding: str, form: str = "NFC"):
    files = {unicodedata.normalize("NFD", at): data for at, data in CLINIC.items()}
    folder = write(tmp_path / "klinik", files)
    (folder / "Befunde.csv").write_bytes(unicodedata.normalize(form, table).encode(encoding))
    return folder


def befunde(separator: str = ";") -> str:
    rows = [f'"{name}"{separator}"2,0"' for name in CLINIC]
    return "\r\n".join([separator.join(['"Aufnahme"', '"Größe des Befunds"']), *rows]) + "\r\n"


@pytest.mark.parametrize(
    ("encoding", "form"),
    [("cp1252", "NFC"), ("utf-8-sig", "NFC"), ("utf-8", "NFD"), ("utf-16", "NFD")],
)
def test_a_clinics_own_table_is_read_by_naming_two_columns(tmp_path, encoding, form):
    folder = clinic(tmp_path, befunde(), encoding, form)
    source = photo_source(
        Source(str(folder), patient=VISITS, image_column="aufnahme", stage_column="Größe des Befunds")
    )  # fmt: skip
    assert source.label_fault() is None
    assert source.problems() == []
    assert set(stages(source).values()) == {2}
    photographs = source.photographs()
    assert len(photographs) == 12
    assert {photo.patient for photo in photographs} == {"Müller, Anna", "von der Höh"}
    assert {photo.eye for photo in photographs} == {"left", "right"}
    assert "Müller, Anna 01.04.2020 OD" in {photo.image_id for photo in photographs}
    assert [source.read(photo.path) for photo in photographs] == [JPEG] * 12


def test_a_table_of_its_own_that_is_named_and_not_known_is_answered_with_its_first_line(tmp_path):
    folder = clinic(tmp_path, befunde(), "utf-8")
    line = photo_source(Source(str(folder), labels=str(folder / "Befunde.csv"))).label_fault()
    assert "Aufnahme" in line
    assert "image_column and stage_column" in line
    line = photo_source(Source(str(folder), image_column="Bild", stage_column="Grad")).label_fault()
    assert "has no table with the columns Bild and Grad" in line


def test_two_layouts_in_one_folder_are_a_question_that_names_both_and_the_setting(tmp_path):
    files = {
        "a.png": JPEG,
        "x.csv": csv("a,1", header="id_code,diagnosis"),
        "y.csv": csv("a,2,0", header="Image name,Retinopathy grade,Risk of macular edema"),
    }
    folder = write(tmp_path, files)
    line = photo_source(folder).label_fault(required=False)
    assert "which labels hold, x.csv (aptos) or y.csv (idrid)?" in line
    assert 'labels = "x.csv" in [[data.sources]]' in line
    assert "\n" not in line
    chosen = photo_source(Source(str(folder), labels=str(folder / "y.csv")))
    assert (chosen.parts[0].found.layout, stages(chosen)) == ("idrid", {"a": 2})


def test_folders_and_a_table_that_disagree_are_a_question_and_agree_in_silence(tmp_path):
    files = {"0/a.png": JPEG, "2/b.png": JPEG}
    agree = {"train.csv": csv("a,0", "b,2", header="id_code,diagnosis")}
    assert (
        photo_source(write(tmp_path / "one", {**files, **agree})).parts[0].found.layout == "aptos"
    )
    differ = {"train.csv": csv("a,1", "b,2", header="id_code,diagnosis")}
    folder = write(tmp_path / "two", {**files, **differ})
    assert "which labels hold" in photo_source(folder).label_fault()
    assert stages(photo_source(Source(str(folder), labels="folders"))) == {"a": 0, "b": 2}


def test_folders_that_are_patients_are_not_taken_for_stages(tmp_path):
    files = {f"{patient}/{patient}a.png": JPEG for patient in (1, 2, 17)}
    source = photo_source(write(tmp_path, files))
    assert source.labels().empty
    assert "no label file" in source.label_fault()


def test_names_that_are_unsafe_or_differ_only_by_case_are_set_aside_with_the_reason(tmp_path):
    files = {"IMG 1.png": JPEG, "sub/img 1.png": JPEG, "a\tb.png": JPEG, "Bild März.png": JPEG}
    folder = write(tmp_path, {**files, "labels.csv": csv("IMG 1,0", "Bild März,1", "../x,2", header="id_code,diagnosis")})  # fmt: skip
    source = photo_source(folder)
    assert reasons(source) == {
        "sub/img 1.png": "ambiguous_name",
        "a\tb.png": "wrong_name",
        "labels.csv:4": "outside_folder",
    }
    assert [photo.image_id for photo in source.photographs()] == ["Bild März", "IMG 1"]


def test_names_that_repeat_in_folders_are_told_apart_by_ids_of_paths(tmp_path):
    files = {"Weiß/rechts.png": JPEG, "Adam/rechts.png": JPEG}
    folder = write(tmp_path, files)
    assert set(reasons(photo_source(folder)).values()) == {"duplicate_id"}
    whose = r"(?P<patient>[^/]+)/(?P<eye>rechts|links)"
    source = photo_source(Source(str(folder), ids="path", patient=whose))
    assert [(photo.image_id, photo.patient, photo.eye) for photo in source.photographs()] == [
        ("Adam_rechts", "Adam", "right"),
        ("Weiß_rechts", "Weiß", "right"),
    ]


def test_several_sources_carry_their_names_in_ids_paths_and_patients(tmp_path):
    one = write(tmp_path / "one", LAYOUTS["eyepacs"][0])
    two = write(tmp_path / "two", LAYOUTS["eyepacs"][0])
    both = PhotoSources([Source(str(one), "one"), Source(str(two), "two", use="external")])
    assert [photo.image_id for photo in both.photographs()] == [
        "one/10_left", "one/10_right", "two/10_left", "two/10_right",
    ]  # fmt: skip
    last = both.photographs()[-1]
    assert (last.patient, last.path, last.source) == ("two/10", "two/train/10_right.jpeg", "two")
    assert last.use == "external"
    assert both.read(last.path) == JPEG
    assert both.labels()["image_id"].tolist()[0] == "one/10_left"
    with pytest.raises(Refused, match="none of the sources"):
        both.read("three/train/10_left.jpeg")
    alone = PhotoSources([Source(str(one), "one")])
    assert alone.photographs()[0].image_id == "10_left", "one source needs no prefix"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"patient": "(unclosed"}, "no regular expression"),
        ({"patient": ".+_left"}, r"has no group \(\?P<patient>"),
        ({"name": "a/b"}, "made of letters"),
        ({"image_column": "Bild"}, "given together"),
    ],
)
def test_a_source_that_cannot_be_is_refused_in_a_line(settings, found):
    with pytest.raises(ValueError, match=found):
        Source("photos", **settings)
