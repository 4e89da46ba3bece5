"""Labels as spreadsheets and Windows write them are read; what is no list of labels, or
contradicts another, is told in a line.
"""

import pytest

from storage.photos.labels import read_labels
from tests.storage.small import photo_source
from tests.storage.test_source import JPEG, csv, reasons, write, zipped

IDS = ("10_left", "10_right", "13_left")
PHOTOGRAPHS = {f"train/{image_id}.jpeg": JPEG for image_id in IDS}
PLAIN = csv("10_left,0", "10_right,4", "13_left,2")


def stages(folder):
    source = photo_source(folder)
    assert source.label_fault() is None
    assert source.problems() == []
    return source.labels().set_index("image_id")["stage"].to_dict()


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
        PLAIN.replace(",", ";").replace("\n", "\r\n").encode(),
        ("sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", ";;\r\n")).encode(),
        PLAIN.replace(",", "\t").encode("utf-16"),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace(",", "   ").encode(),
        PLAIN.replace(",", " , ").replace("\n", "\r").encode(),
        ("\n\n" + PLAIN).encode(),
        csv(
            '"10_left", "0"', '"10_right", "4"', '"13_left", "2"', header='"image", "level"'
        ).encode(),
        csv("10_left,0.0", "10_right,4.00", "13_left,2.0").encode(),
        csv("10_left;0,0", "10_right;4,0", "13_left;2,0", header="image;level").encode(),
        csv(
            "0;4;Müller;10_right", "1;0;Weiß;10_left", "2;2;;13_left", header=";level;größe;Image"
        ).encode("cp1252"),
        csv(
            "train/10_left.jpeg,0", "train\\10_right.JPG,4", "C:\\data\\train\\13_left.jpeg,2"
        ).encode(),
    ],
    ids=[
        "UTF-8 with a mark",
        "UTF-16",
        "UTF-16 LE without a mark",
        "UTF-16 BE without a mark",
        "UTF-32",
        "semicolons",
        "Excel's sep line, rows padded",
        "tabs in UTF-16",
        "bars",
        "spaces",
        "old Mac line ends",
        "blank lines first",
        "quoted with spaces",
        "stages as fractions",
        "decimal commas",
        "other columns in a Windows encoding",
        "paths",
    ],
)
def test_what_can_be_understood_is_read(tmp_path, data):
    assert stages(write(tmp_path, {**PHOTOGRAPHS, "trainLabels.csv": data})) == {
        "10_left": 0,
        "10_right": 4,
        "13_left": 2,
    }


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (b"10_left,0\n10_right,4\n", "its first line is '10_left,0'"),
        (b"image_id,grade\n10_left,0\n", "its first line is 'image_id,grade'"),
        (b"<!DOCTYPE html>\n<html>", "its first line is '<!DOCTYPE html>'"),
        (b"PK\x03\x04\x14\0\x06\0", r"its first line is 'PK\x03\x04"),
        (b"image,level,level\n10_left,0,1\n", "its first line names the column level twice"),
        (b"image,level\n", "it has no row below its first line"),
        (
            b"image,level\n10_left,mild\n10_right,none\n",
            "none of its 2 rows can be used (line 2: level 'mild' is not a number)",
        ),
        (b"image,level\n10_left,0.5\n", "level '0.5' is not one of 0, 1, 2, 3, 4"),
        (b"image,level\nIDRiD_001,0\n", "image 'IDRiD_001' names no eye"),
    ],
)
def test_what_cannot_be_understood_is_a_line_that_names_file_finding_and_what_is_expected(
    tmp_path, data, found
):
    folder = write(tmp_path, {**PHOTOGRAPHS, "trainLabels.csv": data})
    line = photo_source(folder).label_fault(required=False)
    assert line.startswith(f"{folder / 'trainLabels.csv'} cannot be used as labels: ")
    assert found in line
    assert "; expected a first line with the columns image and level" in line
    assert "\n" not in line


def test_zipped_labels_are_chosen_by_name_and_never_by_order(tmp_path):
    folder = write(tmp_path, PHOTOGRAPHS)
    zipped(
        folder / "trainLabels.csv.zip",
        {
            "__MACOSX/._trainLabels.csv": b"x",
            "a.csv": b"x",
            "kaggle\\TrainLabels.csv": PLAIN.encode(),
        },
    )
    assert len(stages(folder)) == 3
    zipped(folder / "trainLabels.csv.zip", {"old.csv": PLAIN.encode(), "new.csv": PLAIN.encode()})
    assert "2 .csv files inside" in photo_source(folder).label_fault()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "holds 3 photographs and no label file; give"),
        ({"labels.csv": "image,grade\n"}, "labels.csv is no label file by its name or columns (its first line is 'image,grade')"),
        ({"train.xlsx": b"PK\x03\x04\0\0", "train.csv": b"id;stage\n"}, "train.csv is no label file by its name or columns (its first line is 'id;stage'); train.xlsx is"),
        ({"sampleSubmission.csv": PLAIN}, "no label file; give"),
        ({"trainLabels.csv": csv("1_left,0", "1_right,0")}, "none of the 2 labels in trainLabels.csv names one of the 3 photographs"),
    ],
    ids=["none at all", "another name", "other tables", "a sample submission", "other photographs' labels"],
)  # fmt: skip
def test_photographs_without_a_label_among_them_are_a_line(tmp_path, files, found):
    source = photo_source(write(tmp_path, {**PHOTOGRAPHS, **files}))
    line = source.label_fault()
    assert found in line
    assert "\n" not in line
    assert source.label_fault(required=False) is None, "a model that is there needs none"


def test_one_labelled_photograph_is_enough_and_none_at_all_is_another_fault(tmp_path):
    assert (
        photo_source(
            write(tmp_path / "one", {**PHOTOGRAPHS, "trainLabels.csv": csv("10_left,0")})
        ).label_fault()
        is None
    )
    assert photo_source(write(tmp_path / "empty", {"README": "x"})).label_fault() is None


OTHER_ORDER = csv("13_left;2.0", "10_left;0.0", "10_right;4.0", header="image;level").replace(
    "\n", "\r\n"
)


@pytest.mark.parametrize(
    "name",
    [
        "backup/trainLabels.csv",
        "train/trainLabels.csv",
        "trainLabels (1).csv",
        "trainLabels.csv.zip",
    ],
)
def test_two_label_files_that_disagree_are_named_with_how_many_labels_differ(tmp_path, name):
    def beside(data):
        folder = write(tmp_path, {**PHOTOGRAPHS, "trainLabels.csv": PLAIN})
        (folder / name).parent.mkdir(exist_ok=True)
        if name.endswith(".zip"):
            zipped(folder / name, {"trainLabels.csv": data.encode()})
        else:
            (folder / name).write_text(data)
        return folder

    assert len(stages(beside(PLAIN))) == 3
    assert len(stages(beside(OTHER_ORDER))) == 3, "the same labels, written otherwise"
    folder = beside(csv("10_left,1", "10_right,4", "13_left,3"))
    line = photo_source(folder).label_fault(required=False)
    assert str(folder / name) in line
    assert f"{folder / 'trainLabels.csv'} " in line
    assert "disagree: 2 labels differ (such as 10_left: stage " in line
    assert "move the other out" in line
    folder = beside(csv("10_left,0", "10_right,4"))
    assert (
        "1 photographs are labelled in one of them only (such as 13_left)"
        in photo_source(folder).label_fault()
    )
    folder = beside(csv("10_left,0", "10_right,4", "13_left,2", "99_left,0"))
    assert photo_source(folder).label_fault() is None, (
        "which copy holds decides nothing: 99_left has no photograph"
    )


def test_files_that_label_other_photographs_each_are_parts_of_one_list(tmp_path):
    folder = write(
        tmp_path,
        {
            **PHOTOGRAPHS,
            "a/trainLabels.csv": csv("10_left,0", "10_right,4"),
            "b/trainLabels.csv": csv("13_left,2"),
        },
    )
    assert stages(folder) == {"10_left": 0, "10_right": 4, "13_left": 2}


def test_files_of_two_kinds_must_agree_on_what_both_say(tmp_path):
    solution = csv("1_left,0,Public", "1_right,1,Private", header="image,level,Usage")
    files = {
        "test/1_left.jpeg": JPEG,
        "test/1_right.jpeg": JPEG,
        "retinopathy_solution.csv": solution,
    }
    folder = write(tmp_path, {**files, "testLabels.csv": csv("1_left,0", "1_right,1")})
    assert stages(folder) == {"1_left": 0, "1_right": 1}
    assert photo_source(folder).labels()["usage"].tolist() == ["Public", "Private"]
    write(folder, {"testLabels.csv": csv("1_left,0,Private", header="image,level,Usage")})
    assert (
        "1 labels differ (such as 1_left: stage 0, Public and stage 0, Private)"
        in photo_source(folder).label_fault()
    )


def test_a_stage_is_a_whole_number_however_it_is_written():
    rows = csv(
        "1_left,3",
        "2_left,3.0",
        "3_left, 3.00 ",
        "4_left,+3",
        "5_left,nan",
        "6_left,1e9",
        "7_left,",
    )
    labels, problems = read_labels(rows.encode(), "trainLabels.csv", "train")
    assert [label.stage for label in labels] == [3, 3, 3, 3]
    assert [problem.reason for problem in problems] == [
        "stage_out_of_range",
        "stage_out_of_range",
        "malformed_row",
    ]


def test_a_label_file_that_may_not_be_read_is_the_fault_itself(tmp_path):
    folder = write(tmp_path / "data", PHOTOGRAPHS)
    write(tmp_path, {"elsewhere.csv": PLAIN})
    (folder / "trainLabels.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert reasons(photo_source(folder)) == {"trainLabels.csv": "bad_labels_file"}
    assert "a link that leads outside the data folder, to " in photo_source(folder).label_fault()
