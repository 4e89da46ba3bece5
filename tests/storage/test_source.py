"""Every file in a data folder is a photograph or a problem with its reason; nothing raises but
an absent folder.
"""

import os
import zipfile
import zlib
from pathlib import Path

import pytest

from storage.files.files import is_url
from storage.photos import types
from storage.photos.sources import PhotoSources
from tests.storage.small import photo_source

JPEG = b"\xff\xd8 not decoded here \xff\xd9"


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def csv(*rows: str, header: str = "image,level") -> str:
    return "\n".join([header, *rows]) + "\n"


def reasons(source: PhotoSources) -> dict[str, str]:
    return {problem.path: problem.reason for problem in source.problems()}


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
    source = photo_source(folder)
    assert source.problems() == []
    assert [photo[:4] for photo in source.photographs()] == [
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
            "TRAINLABELS.CSV": (
                "\ufeff"
                + csv(
                    "10_left.jpeg,0", " 10_right , 1 ", "11_left,2", header="Image, LEVEL"
                ).replace("\n", "\r\n")
            ),
            "Train/10_LEFT.JPEG": JPEG,
            "Train/10_right.Png": JPEG,
            "11_left.tif": JPEG,
        },
    )
    source = photo_source(folder)
    assert source.problems() == []
    assert [photo.image_id for photo in source.photographs()] == ["10_left", "10_right", "11_left"]


def test_photographs_without_any_labels_are_kept(tmp_path):
    source = photo_source(
        write(
            tmp_path,
            {
                "test/1_left.jpeg": JPEG,
                "trainLabels.csv": csv("10_left,0"),
                "train/10_left.jpeg": JPEG,
            },
        )
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
    source = photo_source(folder)
    assert reasons(source) == {
        "extra/10_left.jpg": "duplicate_id",  # train/ comes first
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


@pytest.mark.parametrize(
    ("root", "store"),
    [
        ("hub/datasets--a--b/snapshots/0f3e", "hub/datasets--a--b/blobs/51ac"),
        (
            "annexed/data/train",
            "annexed/.git/annex/objects/zX/51/SHA256E-s8--51ac.jpeg/SHA256E-s8--51ac.jpeg",
        ),
        ("tracked/data", "tracked/.dvc/cache/files/md5/51/ac"),
    ],
    ids=["Hugging Face", "git-annex", "DVC"],
)
def test_links_as_download_caches_make_them_are_followed(tmp_path, root, store):
    folder = write(tmp_path, {store: JPEG, f"{store}-labels": csv("10_left,0")}) / root
    (folder / "train").mkdir(parents=True)
    (folder / "train/10_left.jpeg").symlink_to(os.path.relpath(tmp_path / store, folder / "train"))
    (folder / "trainLabels.csv").symlink_to(tmp_path / f"{store}-labels")
    (folder / "train/13_left.jpeg").symlink_to(tmp_path / f"{store}-gone")
    source = photo_source(folder)
    assert source.label_fault() is None
    assert reasons(source) == {"train/13_left.jpeg": "broken_link"}
    assert "git annex get" in source.problems()[0].detail
    assert [source.read(photo.path) for photo in source.photographs()] == [JPEG]


def test_a_link_that_leads_elsewhere_says_where_to_and_what_to_do(tmp_path):
    folder = write(tmp_path / "data", {"README": "x"})
    write(tmp_path / "elsewhere", {"train/10_left.jpeg": JPEG})
    (folder / "train").symlink_to(tmp_path / "elsewhere/train")
    (problem,) = photo_source(folder).problems()
    assert problem.detail.startswith(
        f"a link that leads outside the data folder, to {tmp_path / 'elsewhere/train'}: put the"
        " files"
    )
    with pytest.raises(ValueError, match="leads outside"):
        photo_source(folder).read("train/10_left.jpeg")


def test_an_archive_may_be_a_link(tmp_path):
    folder = write(tmp_path / "data", {"README": "x"})
    (folder / "train.zip").symlink_to(zipped(tmp_path / "51ac", {"train/10_left.jpeg": JPEG}))
    source = photo_source(folder)
    assert source.problems() == []
    assert source.read(source.photographs()[0].path) == JPEG


def test_a_file_that_may_not_be_read_is_a_problem(tmp_path, monkeypatch):
    folder = write(tmp_path, {"train/10_left.jpeg": JPEG, "train/11_left.jpeg": JPEG})
    access = os.access  # the tests may run as root, whom no permission stops
    monkeypatch.setattr(
        os, "access", lambda path, mode: "11_left" not in str(path) and access(path, mode)
    )
    assert reasons(photo_source(folder)) == {"train/11_left.jpeg": "unreadable"}


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
    photographs = {f"train/{number}_left.jpeg": JPEG for number in range(10, 15)} | {
        "train/10_right.jpeg": JPEG
    }
    source = photo_source(write(tmp_path, {"trainLabels.csv": csv(*rows), **photographs}))
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
    # A photograph whose own row was wrong is named there; one whose row could not even be told is
    # without a label.
    assert {at: reason for at, reason in found.items() if "train/" in at} == {
        "train/10_right.jpeg": "no_label",
        "train/14_left.jpeg": "no_label",
    }


@pytest.mark.parametrize(
    "data",
    [b"", b"id,grade\n1,2\n", b"\xff\xfe\x00i\x00m", b"PK\x03\x04"],
    ids=["empty", "columns", "utf-16", "zip"],
)
def test_a_label_file_that_is_none_is_one_problem(tmp_path, data):
    source = photo_source(write(tmp_path, {"trainLabels.csv": data, "train/10_left.jpeg": JPEG}))
    assert reasons(source) == {"trainLabels.csv": "bad_labels_file"}
    assert [photo.image_id for photo in source.photographs()] == ["10_left"]
    assert source.labels().empty


def test_labels_of_a_split_that_is_not_there_are_one_problem(tmp_path):
    folder = write(
        tmp_path,
        {
            "train/10_left.jpeg": JPEG,
            "trainLabels.csv": csv("10_left,0"),
            "retinopathy_solution.csv": csv(
                *(f"{n}_left,0,Public" for n in range(100, 200)), header="image,level,Usage"
            ),
        },
    )
    assert [tuple(problem) for problem in photo_source(folder).problems()] == [
        (
            "retinopathy_solution.csv",
            None,
            "no_photograph",
            "none of its 100 images has a photograph here",
        )
    ]


def test_reading_never_leaves_the_folder(tmp_path):
    folder = write(tmp_path / "data", {"train/10_left.jpeg": JPEG})
    write(tmp_path, {"secret.jpeg": JPEG})
    with pytest.raises(ValueError, match=r"\.\./secret.jpeg leads outside"):
        photo_source(folder).read("../secret.jpeg")


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
        photo_source(tmp_path / name).photographs()
    assert "\n" not in str(caught.value)


def test_a_file_is_stamped_by_its_time_and_an_archives_entry_by_its_checksum(tmp_path):
    folder = write(tmp_path / "folder", {"train/10_left.jpeg": JPEG})
    os.utime(folder / "train/10_left.jpeg", ns=(5, 7))
    assert photo_source(folder).photographs()[0].stamp == "mtime_ns=7"
    first = zipped(tmp_path / "first.zip", {"10_left.jpeg": JPEG})
    again = zipped(
        tmp_path / "again.zip",
        {"1_left.jpeg": b"other", "train/10_left.jpeg": JPEG},
        zipfile.ZIP_DEFLATED,
    )
    stamps = [photo_source(path).photographs()[-1].stamp for path in (first, again)]
    assert stamps == [f"crc32={zlib.crc32(JPEG):08x}"] * 2, "wherever and however it is packed"


def test_a_file_too_large_for_a_photograph_is_not_read(tmp_path, monkeypatch):
    folder = write(
        tmp_path, {"train/10_left.jpeg": JPEG, "trainLabels.csv": csv("10_left,0", "11_left,0")}
    )
    with (folder / "train/11_left.jpeg").open("wb") as file:
        file.truncate(types.MAX_PHOTO_BYTES + 1)  # a hole in the disk, as cheap as it is long
    with (folder / "train.zip.001").open("wb") as file:
        file.truncate(types.MAX_PHOTO_BYTES + 1)  # what is no photograph may be large
    source = photo_source(folder)
    assert reasons(source) == {"train/11_left.jpeg": "too_large", "train.zip.001": "bad_archive"}
    assert (
        source.problems()[1].detail == "536,870,913 bytes; no photograph has more than 536,870,912"
    )
    monkeypatch.setattr("storage.photos.listing.MAX_LABEL_BYTES", 10)
    assert reasons(photo_source(folder))["trainLabels.csv"] == "bad_labels_file"


def test_urls_are_told_from_paths():
    assert is_url("s3://bucket/photos")
    assert not is_url("/data/photos")
    with pytest.raises(
        ValueError,
        match=(
            r"s3://bucket/photos: photographs are read from a folder or zip file on this machine;"
            r" copy or mount them"
        ),
    ):
        photo_source("s3://bucket/photos")
