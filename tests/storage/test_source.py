"""Every file in a data folder is a photograph or a problem with its reason; nothing raises but an absent folder."""

import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.files import is_url
from storage.source import PhotoSource

JPEG = b"\xff\xd8 not decoded here \xff\xd9"


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def csv(*rows: str, header: str = "image,level") -> str:
    return "\n".join([header, *rows]) + "\n"


def reasons(source: PhotoSource) -> dict[str, str]:
    return {problem.source: problem.reason for problem in source.problems()}


def zipped(path: Path, files: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def test_kaggles_layout(tmp_path):
    folder = write(
        tmp_path,
        {
            "trainLabels.csv": csv("10_left,0", "10_right,4"),
            "retinopathy_solution.csv": csv("1_left,2,Private", header="image,level,Usage"),
            "train/10_left.jpeg": JPEG,
            "train/10_right.jpeg": b"",
            "test/1_left.jpeg": JPEG,
            "README.md": "about",
            "masks/10_left.png": JPEG,
            "train/.DS_Store": "x",
        },
    )
    source = PhotoSource(folder)
    assert source.problems() == []
    assert [tuple(photo) for photo in source.photographs()] == [
        ("1_left", "test", "test/1_left.jpeg", len(JPEG)),
        ("10_left", "train", "train/10_left.jpeg", len(JPEG)),
        ("10_right", "train", "train/10_right.jpeg", 0),
    ]
    labels = source.labels().set_index("image_id")
    assert labels["stage"].to_dict() == {"10_left": 0, "10_right": 4, "1_left": 2}
    assert labels["usage"].to_dict() == {"10_left": None, "10_right": None, "1_left": "Private"}
    assert source.read("test/1_left.jpeg") == JPEG


def test_names_of_any_case_and_kind(tmp_path):
    folder = write(
        tmp_path,
        {
            "TRAINLABELS.CSV": "\ufeff"
            + csv("10_left.jpeg,0", " 10_right , 1 ", "11_left,2", header="Image, LEVEL").replace("\n", "\r\n"),
            "Train/10_LEFT.JPEG": JPEG,
            "Train/10_right.Png": JPEG,
            "11_left.tif": JPEG,
        },
    )
    source = PhotoSource(folder)
    assert source.problems() == []
    assert [photo.image_id for photo in source.photographs()] == ["10_left", "10_right", "11_left"]


def test_photographs_without_any_labels_are_kept(tmp_path):
    source = PhotoSource(
        write(tmp_path, {"test/1_left.jpeg": JPEG, "trainLabels.csv": csv("10_left,0"), "train/10_left.jpeg": JPEG})
    )
    assert source.problems() == []
    assert [photo.image_id for photo in source.photographs()] == ["1_left", "10_left"]


def test_every_photograph_that_cannot_be_used_is_a_problem_with_its_reason(tmp_path):
    outside = write(tmp_path / "elsewhere", {"9_left.jpeg": JPEG})
    folder = write(
        tmp_path / "data",
        {
            "trainLabels.csv": csv("10_left,0", "11_left,1", "12_left,1", "7_left,1"),
            "train/10_left.jpeg": JPEG,
            "extra/10_left.jpg": JPEG,
            "train/photo of an eye.jpeg": JPEG,
            "train/left.jpeg": JPEG,
            "train/11_left.txt": "text",
            "train/13_left.jpeg": JPEG,
        },
    )
    (folder / "train/9_left.jpeg").symlink_to(outside / "9_left.jpeg")
    (folder / "train/8_left.jpeg").symlink_to(folder / "gone.jpeg")
    (folder / "train/7_left.jpeg").symlink_to(folder / "train/13_left.jpeg")
    (folder / "more").symlink_to(outside)
    (folder / "round").symlink_to(folder)
    (folder / "train/6_left.jpeg").mkdir()
    os.mkfifo(folder / "train/5_left.jpeg")
    source = PhotoSource(folder)
    assert reasons(source) == {
        "train/10_left.jpeg": "duplicate_id",  # extra/ comes first
        "train/photo of an eye.jpeg": "wrong_name",
        "train/left.jpeg": "wrong_name",
        "train/11_left.txt": "wrong_extension",
        "train/13_left.jpeg": "no_label",
        "train/9_left.jpeg": "outside_folder",
        "train/8_left.jpeg": "broken_link",
        "train/6_left.jpeg": "not_a_file",
        "train/5_left.jpeg": "not_a_file",
        "more": "outside_folder",
        "round": "outside_folder",
        "trainLabels.csv:4": "no_photograph",
    }
    assert [photo.image_id for photo in source.photographs()] == ["7_left", "10_left"]
    assert all(problem.detail for problem in source.problems())


def test_a_file_that_may_not_be_read_is_a_problem(tmp_path, monkeypatch):
    folder = write(tmp_path, {"train/10_left.jpeg": JPEG, "train/11_left.jpeg": JPEG})
    access = os.access  # the tests may run as root, whom no permission stops
    monkeypatch.setattr(os, "access", lambda path, mode: "11_left" not in str(path) and access(path, mode))
    assert reasons(PhotoSource(folder)) == {"train/11_left.jpeg": "unreadable"}


def test_every_wrong_row_of_the_labels_is_a_problem_with_its_line(tmp_path):
    rows = [
        "10_left,0",
        "10_right",
        "11_left,5",
        "12_left,-1",
        "13_left,many",
        "14_left,1,2",
        "../../etc/passwd,0",
        "someone,0",
        "",
        "10_left,3",
    ]
    photographs = {f"train/{number}_left.jpeg": JPEG for number in range(10, 15)} | {"train/10_right.jpeg": JPEG}
    source = PhotoSource(write(tmp_path, {"trainLabels.csv": csv(*rows), **photographs}))
    found = reasons(source)
    assert {at.rpartition(":")[2]: reason for at, reason in found.items() if "csv" in at} == {
        "3": "malformed_row",
        "4": "stage_out_of_range",
        "5": "stage_out_of_range",
        "6": "malformed_row",
        "7": "malformed_row",
        "8": "outside_folder",
        "9": "wrong_name",
        "11": "repeated_label",
    }
    assert source.labels()["stage"].tolist() == [0]
    # A photograph whose own row was wrong is named there; one whose row could not even be told is without a label.
    assert {at: reason for at, reason in found.items() if "train/" in at} == {
        "train/10_right.jpeg": "no_label",
        "train/14_left.jpeg": "no_label",
    }


@pytest.mark.parametrize(
    "data", [b"", b"id,grade\n1,2\n", b"\xff\xfe\x00i\x00m", b"PK\x03\x04"], ids=["empty", "columns", "utf-16", "zip"]
)
def test_a_label_file_that_is_none_is_one_problem(tmp_path, data):
    source = PhotoSource(write(tmp_path, {"trainLabels.csv": data, "train/10_left.jpeg": JPEG}))
    assert reasons(source) == {"trainLabels.csv": "bad_labels_file"}
    assert [photo.image_id for photo in source.photographs()] == ["10_left"]
    assert source.labels().empty


def test_labels_of_a_split_that_is_not_there_are_one_problem(tmp_path):
    folder = write(
        tmp_path,
        {
            "train/10_left.jpeg": JPEG,
            "trainLabels.csv": csv("10_left,0"),
            "retinopathy_solution.csv": csv(*(f"{n}_left,0,Public" for n in range(100, 200)), header="image,level,Usage"),
        },
    )
    assert [tuple(problem) for problem in PhotoSource(folder).problems()] == [
        ("retinopathy_solution.csv", None, "no_photograph", "none of its 100 images has a photograph here")
    ]


@pytest.mark.parametrize("inside", ["train/", "", "kaggle/train/"])
def test_photographs_and_labels_out_of_one_zip(tmp_path, inside):
    files = {f"{inside}10_left.jpeg": JPEG, f"{inside}10_right.jpeg": JPEG[::-1], "__MACOSX/._10_left.jpeg": b"x"}
    path = zipped(tmp_path / "data.zip", {**files, "trainLabels.csv": csv("10_left,0", "10_right,1").encode()})
    source = PhotoSource(path)
    assert source.problems() == []
    assert [source.read(photo.path) for photo in source.photographs()] == [JPEG, JPEG[::-1]]
    assert source.labels()["stage"].tolist() == [0, 1]


def test_kaggle_as_it_comes_split_zips_and_zipped_labels(tmp_path):
    photographs = {f"train/{number}_left.jpeg": bytes([number]) * 5000 for number in range(20)}
    whole = zipped(tmp_path / "whole", photographs).read_bytes()
    for part, start in enumerate(range(0, len(whole), 30_000), 1):
        (tmp_path / f"train.zip.{part:03}").write_bytes(whole[start : start + 30_000])
    (tmp_path / "whole").unlink()
    zipped(tmp_path / "test.zip", {"test/50_left.jpeg": JPEG})
    zipped(
        tmp_path / "trainLabels.csv.zip",
        {"trainLabels.csv": csv(*(f"{n}_left,0" for n in range(20))).encode()},
        zipfile.ZIP_DEFLATED,
    )
    source = PhotoSource(tmp_path)
    assert source.problems() == []
    assert len(source.photographs()) == 21
    assert source.photographs()[3].path == "train.zip.001/train/3_left.jpeg"
    assert source.photographs()[-1].split_hint == "test"
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda photo: source.read(photo.path), source.photographs()[:20]))
    assert found == list(photographs.values())
    there = pickle.loads(pickle.dumps(source))
    assert there.read("train.zip.001/train/19_left.jpeg") == bytes([19]) * 5000
    (tmp_path / "train.zip.002").unlink()
    assert reasons(PhotoSource(tmp_path))["train.zip.001"] == "bad_archive"


def test_an_archive_that_has_been_unpacked_is_not_read_twice(tmp_path):
    zipped(tmp_path / "train.zip", {"train/10_left.jpeg": JPEG})
    source = PhotoSource(write(tmp_path, {"train/10_left.jpeg": JPEG}))
    assert [photo.path for photo in source.photographs()] == ["train/10_left.jpeg"]
    assert source.problems() == []


def test_what_is_wrong_inside_an_archive_is_a_problem(tmp_path):
    link = zipfile.ZipInfo("train/2_left.jpeg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
        file.writestr("../1_left.jpeg", JPEG)
        file.writestr(link, "/etc/passwd")
        file.writestr("train/3_left.jpeg", JPEG)
    (tmp_path / "test.zip").write_bytes(b"PK, but no more")
    source = PhotoSource(tmp_path)
    assert reasons(source) == {
        "train.zip/../1_left.jpeg": "outside_folder",
        "train.zip/train/2_left.jpeg": "outside_folder",
        "test.zip": "bad_archive",
    }
    assert [photo.image_id for photo in source.photographs()] == ["3_left"]


def test_a_damaged_entry_is_an_oserror_when_it_is_read(tmp_path):
    path = zipped(tmp_path / "train.zip", {"train/10_left.jpeg": JPEG * 100})
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    source = PhotoSource(path)
    with pytest.raises(OSError, match="is damaged: Bad CRC-32"):
        source.read(source.photographs()[0].path)
    with pytest.raises(FileNotFoundError):
        source.read("train/11_left.jpeg")


def test_reading_never_leaves_the_folder(tmp_path):
    folder = write(tmp_path / "data", {"train/10_left.jpeg": JPEG})
    write(tmp_path, {"secret.jpeg": JPEG})
    with pytest.raises(ValueError, match=r"\.\./secret.jpeg leads outside"):
        PhotoSource(folder).read("../secret.jpeg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "gone is not there: set data.photos"),
        ("file.txt", "neither a folder nor a .zip"),
        ("bad.zip", "is not a whole zip"),
    ],
)
def test_a_location_without_photographs_gets_one_line(tmp_path, name, message):
    write(tmp_path, {"file.txt": "x", "bad.zip": "x"})
    with pytest.raises((FileNotFoundError, ValueError), match=message) as caught:
        PhotoSource(tmp_path / name).photographs()
    assert "\n" not in str(caught.value)


def test_urls_are_told_from_paths():
    assert is_url("s3://bucket/photos")
    assert not is_url("/data/photos")
    with pytest.raises(ValueError, match="local folder or zip"):
        PhotoSource("s3://bucket/photos")
