"""Masks are found in the layouts in which data sets publish them; what is not known is named."""

import json

import pytest

from storage.errors import Refused
from storage.photos.masks import annotations, find_masks, lesion_type, masks_inside

PHOTOS = {"idrid/IDRiD_01": "a/IDRiD_01.jpg", "idrid/IDRiD_02": "a/IDRiD_02.jpg"}


def touched(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def kinds(index, image_id):
    return sorted(file.lesion for file in index.files.get(image_id, ()))


def test_idrids_own_folders_are_read_by_the_last_word_of_each_file(tmp_path):
    root = touched(
        tmp_path,
        "1. Original Images/a. Training Set/IDRiD_01.jpg",
        "2. Masks/a. Training Set/1. Microaneurysms/IDRiD_01_MA.tif",
        "2. Masks/a. Training Set/2. Haemorrhages/IDRiD_01_HE.tif",
        "2. Masks/a. Training Set/5. Optic Disc/IDRiD_01_OD.tif",
        "2. Masks/a. Training Set/1. Microaneurysms/IDRiD_02_MA.tif",
        "2. Masks/a. Training Set/1. Microaneurysms/IDRiD_47_MA.tif",
    )
    index = find_masks(root, PHOTOS)
    assert kinds(index, "idrid/IDRiD_01") == ["haemorrhage", "microaneurysm", "optic_disc"]
    assert kinds(index, "idrid/IDRiD_02") == ["microaneurysm"]
    assert (dict(index.unknown), index.strangers) == ({}, 1)


def test_ddrs_folders_tell_the_type(tmp_path):
    photos = {"ddr/007-0004-100": "train/image/007-0004-100.jpg"}
    names = [f"train/label/{kind}/007-0004-100.tif" for kind in ("EX", "HE", "MA", "SE")]
    index = find_masks(touched(tmp_path, "train/image/007-0004-100.jpg", *names), photos)
    assert kinds(index, "ddr/007-0004-100") == [
        "haemorrhage",
        "hard_exudate",
        "microaneurysm",
        "soft_exudate",
    ]


def test_a_type_that_is_not_known_is_counted_by_its_name(tmp_path):
    root = touched(
        tmp_path,
        "HardExudate_Masks/IDRiD_01.png",
        "IRMA_Masks/IDRiD_01.png",
        "IRMA_Masks/IDRiD_02.png",
        "Original_Images/IDRiD_02.png",
    )
    index = find_masks(root, PHOTOS)
    assert kinds(index, "idrid/IDRiD_01") == ["hard_exudate"]
    assert index.unknown == {"IRMA_Masks": 2}
    assert "idrid/IDRiD_02" not in index.files, "a photograph beside the masks is none"
    index = find_masks(touched(tmp_path / "b", "IDRiD_01_EX.png", "IDRiD_01_drusen.png"), PHOTOS)
    assert kinds(index, "idrid/IDRiD_01") == ["hard_exudate"]
    assert index.unknown == {"drusen": 1}


def test_white_masks_of_an_unknown_type_alone_are_not_taken_for_colours(tmp_path):
    index = find_masks(touched(tmp_path, "irma/IDRiD_01.png", "train/IDRiD_02.png"), PHOTOS)
    assert (index.unknown, kinds(index, "idrid/IDRiD_02")) == ({"irma": 1}, [""])
    assert "idrid/IDRiD_01" not in index.files


def test_pictures_of_colours_have_no_type_and_a_photograph_is_no_mask(tmp_path):
    root = touched(tmp_path, "10_left.png", "10_right.jpeg", "11_left.png")
    index = find_masks(root, {"10_left": "train/10_left.jpeg", "10_right": "train/10_right.jpeg"})
    assert kinds(index, "10_left") == [""]
    assert "10_right" not in index.files
    assert index.strangers == 1
    assert index.stamp("10_left").startswith("1:")
    assert index.stamp("10_right") == ""


COCO = {
    "images": [
        {"id": 7, "file_name": "photos/IDRiD_01.jpg", "width": 40, "height": 30},
        {"id": 8, "file_name": "IDRiD_02.jpg", "width": 40, "height": 30},
        {"id": 9, "file_name": "other.jpg", "width": 40, "height": 30},
    ],
    "categories": [{"id": 1, "name": "Hard Exudates"}, {"id": 2, "name": "drusen"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"id": 2, "image_id": 7, "category_id": 2, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"id": 3, "image_id": 9, "category_id": 2, "segmentation": [[1, 1, 5, 1, 5, 5]]},
    ],
}


def test_an_annotation_file_is_read_with_the_eyes_that_have_no_lesion(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO))
    index = find_masks(path, PHOTOS)
    assert {name: files[0].image for name, files in index.files.items()} == {
        "idrid/IDRiD_01": 7,
        "idrid/IDRiD_02": 8,
    }
    assert (index.unknown, index.strangers) == ({"drusen": 1}, 1)
    shape, found = annotations(str(path), 7)
    assert shape == (30, 40)
    assert [(one["id"], one["lesion"]) for one in found] == [(1, "hard_exudate")]
    assert annotations(str(path), 8) == ((30, 40), [])
    assert find_masks(tmp_path, PHOTOS).files == index.files


def test_a_place_without_masks_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match="no such folder or annotation file"):
        find_masks(tmp_path / "nowhere", PHOTOS)
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(Refused, match="COCO's form"):
        find_masks(tmp_path / "other.json", PHOTOS)
    assert find_masks(tmp_path, PHOTOS).files == {}


@pytest.mark.parametrize(
    ("name", "lesion"),
    [
        ("2. Haemorrhages", "haemorrhage"),
        ("Hemohedge_Masks", "haemorrhage"),
        ("MA", "microaneurysm"),
        ("cotton-wool spots", "soft_exudate"),
        ("5. Optic Disc", "optic_disc"),
        ("Neovascularization_Masks", "new_vessels"),
        ("IRMA", ""),
        ("masks", ""),
    ],
)
def test_the_names_of_the_lesion_types_are_those_of_the_data_sets(name, lesion):
    assert lesion_type(name) == lesion


def test_a_published_data_sets_masks_are_found_among_its_photographs(tmp_path):
    """IDRiD's own folders; the folder of grades has the same name and holds no pictures."""
    photographs = tmp_path / "A" / "1. Original Images"
    grades = tmp_path / "A" / "2. Groundtruths"
    masks = tmp_path / "A" / "3. All Segmentation Groundtruths" / "a. Training Set"
    for folder in (photographs, grades, masks / "1. Microaneurysms"):
        folder.mkdir(parents=True)
    (photographs / "IDRiD_01.jpg").touch()
    (grades / "grades.csv").touch()
    assert masks_inside(tmp_path) is None
    (masks / "1. Microaneurysms" / "IDRiD_01_MA.tif").touch()
    assert masks_inside(tmp_path) == masks.parent
    (tmp_path / "masks").mkdir()
    assert masks_inside(tmp_path) == tmp_path / "masks"
