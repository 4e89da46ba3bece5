"""Photographs and labels straight out of zip files, whole or in parts, sound or not."""

import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.photos.archive import Archive
from tests.storage.small import photo_source
from tests.storage.test_source import JPEG, csv, reasons, write, zipped


@pytest.mark.parametrize("inside", ["train/", "", "kaggle/train/"])
def test_photographs_and_labels_out_of_one_zip(tmp_path, inside):
    files = {
        f"{inside}10_left.jpeg": JPEG,
        f"{inside}10_right.jpeg": JPEG[::-1],
        "__MACOSX/._10_left.jpeg": b"x",
    }
    path = zipped(
        tmp_path / "data.zip", {**files, "trainLabels.csv": csv("10_left,0", "10_right,1").encode()}
    )
    source = photo_source(path)
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
    source = photo_source(tmp_path)
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
    assert reasons(photo_source(tmp_path))["train.zip.001"] == "bad_archive"


def test_an_archive_that_has_been_unpacked_is_not_read_twice(tmp_path):
    zipped(tmp_path / "train.zip", {"train/10_left.jpeg": JPEG})
    source = photo_source(write(tmp_path, {"train/10_left.jpeg": JPEG}))
    assert [photo.path for photo in source.photographs()] == ["train/10_left.jpeg"]
    assert source.problems() == []


def split(path, parts):
    """Cuts a zip file into the parts that Kaggle would deliver."""
    whole = path.read_bytes()
    path.unlink()
    step = -(-len(whole) // parts)
    for part in range(parts):
        path.with_name(f"{path.name}.{part + 1:03}").write_bytes(
            whole[part * step : (part + 1) * step]
        )


@pytest.mark.parametrize("inside", ["train/", "", "kaggle\\train\\"])
@pytest.mark.parametrize(
    ("folder", "parts"), [("train", 1), ("Train/train", 1), ("train", 3), ("train.zip", 3)]
)
@pytest.mark.parametrize("place", ["", "kaggle/"])
def test_what_a_half_unpacked_folder_lacks_is_read_from_its_archive(
    tmp_path, place, folder, inside, parts
):
    photographs = {f"{number}_left.jpeg": bytes([number]) * 5000 for number in range(1, 9)}
    root = write(tmp_path, {f"{place}README": b"x"})
    zipped(
        root / place / "train.zip", {f"{inside}{name}": data for name, data in photographs.items()}
    )
    if parts > 1:
        split(root / place / "train.zip", parts)
    write(
        root / place / folder,
        {
            "1_left.jpeg": photographs["1_left.jpeg"],
            "2_left.jpeg": b"edited",
            "3_LEFT.JPG": bytes([3]) * 100,
        },
    )
    write(root / place / folder, {"4_left.jpeg": b""})
    source = photo_source(root)
    assert source.problems() == []
    found = {photo.image_id: photo for photo in source.photographs()}
    assert len(found) == 8
    assert {
        name for name, photo in found.items() if photo.path.startswith(f"{place}{folder}/")
    } == {"1_left", "2_left"}
    read = {
        f"{name}.jpeg": pickle.loads(pickle.dumps(source)).read(photo.path)
        for name, photo in found.items()
    }
    assert read == photographs | {"2_left.jpeg": b"edited"}, (
        "an edited file counts, one that was cut short does not"
    )
    assert {photo.split_hint for photo in found.values()} == {"train"}


def test_an_archive_without_all_its_parts_beside_its_folder_is_told(tmp_path):
    root = write(
        tmp_path, {"train/1_left.jpeg": JPEG, "train.zip.001": b"x", "train.zip.003": b"x"}
    )
    assert reasons(photo_source(root)) == {"train.zip.001": "bad_archive"}


def test_a_zip_as_windows_packs_it_is_read_as_any_other(tmp_path):
    path = tmp_path / "DATA.ZIP"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {
            "train\\": b"",
            "train\\10_LEFT.JPEG": JPEG,
            "train\\Thumbs.db": b"x",
            "train\\desktop.ini": b"x",
            "__MACOSX\\train\\._10_left.jpeg": b"x",
            "./train/10_right.jpeg": JPEG[::-1],
            "masks\\10_left.png": b"x",
            "TRAINLABELS.CSV": (
                csv("10_left;0", "10_right;1", header="\ufeffimage;level")
                .replace("\n", "\r\n")
                .encode()
            ),
        }.items():
            file.writestr(name, data)
    for source in (photo_source(path), photo_source(tmp_path)):
        assert source.problems() == []
        assert source.label_fault() is None
        assert [source.read(photo.path) for photo in source.photographs()] == [JPEG, JPEG[::-1]]
        assert {photo.split_hint for photo in source.photographs()} == {"train"}


def test_what_programs_leave_in_folders_is_no_photograph(tmp_path):
    left = [
        "Thumbs.db",
        "desktop.ini",
        "._10_left.jpeg",
        "@eaDir/10_left.jpeg/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/10_left.jpeg",
    ]
    source = photo_source(
        write(tmp_path, {"train/10_left.jpeg": JPEG} | {f"train/{name}": b"x" for name in left})
    )
    assert source.problems() == []
    assert len(source.photographs()) == 1


def test_an_archive_of_another_kind_and_a_compression_that_cannot_be_read_are_told_with_the_way_out(
    tmp_path,
):
    root = write(tmp_path, {"train.7z": b"x", "old/test.tar.gz": b"x"})
    with zipfile.ZipFile(root / "train.zip", "w") as file:
        file.writestr("train/1_left.jpeg", JPEG)
        file.filelist[0].compress_type = 9  # Deflate64, Windows' own for large files
    found = {
        problem.path: (problem.reason, problem.detail) for problem in photo_source(root).problems()
    }
    assert (
        found["train.7z"]
        == found["old/test.tar.gz"]
        == ("bad_archive", "no zip file, and only those are read: unpack it here")
    )
    assert found["train.zip/train/1_left.jpeg"][0] == "bad_entry"
    assert "unpack the archive" in found["train.zip/train/1_left.jpeg"][1]


def test_what_is_wrong_inside_an_archive_is_a_problem(tmp_path):
    link = zipfile.ZipInfo("train/2_left.jpeg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
        file.writestr("../1_left.jpeg", JPEG)
        file.writestr(link, "/etc/passwd")
        file.writestr("train/3_left.jpeg", JPEG)
    (tmp_path / "test.zip").write_bytes(b"PK, but no more")
    source = photo_source(tmp_path)
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
    source = photo_source(path)
    with pytest.raises(OSError, match="is damaged: Bad CRC-32"):
        source.read(source.photographs()[0].path)
    with pytest.raises(FileNotFoundError):
        source.read("train/11_left.jpeg")


def test_zipped_labels_that_are_none_are_one_problem(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.photos.listing.MAX_LABEL_BYTES", 100_000)
    whole = zipped(
        tmp_path / "labels.zip", {"trainLabels.csv": csv("10_left,0").encode()}
    ).read_bytes()
    encrypted = bytearray(whole)
    encrypted[6] |= 1  # the local header's flags
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    inputs = {
        "encrypted": bytes(encrypted),
        "cut": whole[:-5],
        "without labels": zipped(tmp_path / "none.zip", {"README": b"x"}).read_bytes(),
        "bomb": (
            zipped(
                tmp_path / "bomb.zip", {"trainLabels.csv": bytes(10**6)}, zipfile.ZIP_DEFLATED
            ).read_bytes()
        ),
    }
    details = {}
    for number, (name, data) in enumerate(inputs.items()):
        folder = write(tmp_path / str(number), {"train/10_left.jpeg": JPEG})
        (folder / "trainLabels.csv.zip").write_bytes(data)
        details[name] = {
            problem.reason: problem.detail for problem in photo_source(folder).problems()
        }["bad_labels_file"]
    assert "encrypted" in details["encrypted"]
    assert details["cut"].startswith("not a whole zip file")
    assert details["without labels"] == "no .csv inside"
    assert details["bomb"] == "trainLabels.csv would unpack to 1,000,000 bytes"


def test_an_archives_directory_is_read_once_a_process(tmp_path, monkeypatch):
    path = zipped(
        tmp_path / "train.zip", {f"train/{n}_left.jpeg": bytes([n]) * 100 for n in range(20)}
    )
    opened = []
    real = zipfile.ZipFile._RealGetContents
    monkeypatch.setattr(
        zipfile.ZipFile, "_RealGetContents", lambda self: (opened.append(1), real(self))[1]
    )
    for shard in range(5):  # a worker makes a source of its own for every shard
        source = pickle.loads(pickle.dumps(photo_source(tmp_path)))
        assert source.read(f"train.zip/train/{shard}_left.jpeg") == bytes([shard]) * 100
    assert len(opened) == 1
    zipped(path, {"train/1_left.jpeg": JPEG})
    assert photo_source(tmp_path).read("train.zip/train/1_left.jpeg") == JPEG, (
        "one that was replaced is read anew"
    )
    assert len(opened) == 2


def test_an_archive_made_to_mislead_is_an_oserror(tmp_path):
    path = zipped(tmp_path / "train.zip", {"train/10_left.jpeg": JPEG})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 42 : directory + 46] = (10**6).to_bytes(
        4, "little"
    )  # its entry would lie behind the file's end
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"train.zip/train/10_left.jpeg is damaged"):
        Archive(path).read("train/10_left.jpeg")


def test_an_archive_of_archives_is_told_until_it_is_unpacked(tmp_path):
    train = zipped(tmp_path / "train.zip", {"train/10_left.jpeg": JPEG}).read_bytes()
    all_in_one = zipped(
        tmp_path / "all.zip", {"train.zip.001": train, "trainLabels.csv": csv("10_left,0").encode()}
    )
    with pytest.raises(
        ValueError,
        match=r"all.zip holds train.zip.001, .* unpack all.zip and set data.photos to that folder",
    ):
        photo_source(all_in_one).photographs()
    (tmp_path / "train.zip").unlink()
    assert reasons(photo_source(tmp_path))["all.zip"] == "nested_archive"
    (tmp_path / "train.zip.001").write_bytes(train)
    assert photo_source(tmp_path).problems() == []
    assert [photo.path for photo in photo_source(tmp_path).photographs()] == [
        "train.zip.001/train/10_left.jpeg"
    ]


def test_the_last_part_missing_is_told(tmp_path):
    whole = zipped(
        tmp_path / "whole", {f"train/{n}_left.jpeg": JPEG for n in range(9)}
    ).read_bytes()
    (tmp_path / "train.zip.001").write_bytes(whole[:500])
    with pytest.raises(
        ValueError, match=r"not a whole zip file: .*; 1 parts are there: is the last one missing\?"
    ):
        photo_source(tmp_path / "train.zip.001").photographs()
