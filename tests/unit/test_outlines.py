"""Regions on their photographs: closed forms of place and area, and the forms that tools read."""

import csv
import io
import json

import numpy as np
import pytest

from dr_lib.fundus import Disc
from dr_lib.maps.exchange import (
    CATEGORIES,
    ExportedEye,
    ExportedRegion,
    coco,
    geojson,
    outline,
    table,
)

SIZE = 100
# Fundus pixel i covers photograph columns 2 i + 20 … 2 i + 22 and rows 3 i + 10 … 3 i + 13.
DISC = Disc(159.5, 119.5, 200.0, aspect=1.5)
SHAPE = (320, 260)


def region(rows, columns):
    found = np.zeros((SIZE, SIZE), bool)
    found[rows, columns] = True
    return found


def test_a_rectangle_of_the_fundus_is_the_rectangle_of_the_squeezed_photograph():
    found = outline(region(slice(40, 50), slice(30, 34)), DISC, SHAPE)
    assert found.box == (20 + 60, 10 + 120, 8, 30)
    # Each corner of the outline is cut by an eighth of a pixel: half a fundus pixel in all.
    assert found.area_px == pytest.approx((40 - 0.5) * 2 * 3)


def test_a_regions_holes_are_filled_and_parts_joined_over_corners_are_one_polygon():
    ring = region(slice(40, 50), slice(40, 50))
    ring[43:46, 43:46] = False
    assert outline(ring, DISC, SHAPE).area_px == pytest.approx((100 - 0.5) * 6)
    steps = region([10, 11, 12], [10, 11, 12])
    found = outline(steps, DISC, SHAPE)
    assert found.box == (40, 40, 6, 9)


def test_an_outline_ends_at_the_frame_and_a_region_outside_has_none():
    here = region(slice(0, 20), slice(48, 52))
    cut = outline(here, Disc(100.0, 119.5, 200.0, aspect=1.5), SHAPE)
    assert cut.box[1] == 0.0
    assert outline(here, Disc(-300.0, 119.5, 200.0, aspect=1.5), SHAPE) is None


def eyes():
    shape = outline(region(slice(40, 50), slice(30, 34)), DISC, SHAPE)
    told = ExportedRegion(0, shape, 0.25, 1.23456, "haemorrhage", 0.8125)
    untold = ExportedRegion(1, shape, 0.125, 0.5)
    return [
        ExportedEye("1_left", "train/1_left.jpeg", *SHAPE, (told, untold)),
        ExportedEye("ü 2", "train/ü 2.jpeg", *SHAPE, ()),
    ]


def test_coco_has_every_field_of_instances_and_its_ids_are_unique():
    document = json.loads(coco(eyes(), "regions"))
    assert [one["file_name"] for one in document["images"]] == [
        "train/1_left.jpeg",
        "train/ü 2.jpeg",
    ]
    assert {(one["width"], one["height"]) for one in document["images"]} == {(260, 320)}
    assert [one["name"] for one in document["categories"]] == list(CATEGORIES)
    first, second = document["annotations"]
    assert (first["id"], second["id"], first["image_id"]) == (1, 2, 1)
    names = {one["id"]: one["name"] for one in document["categories"]}
    assert (names[first["category_id"]], names[second["category_id"]]) == ("haemorrhage", "lesion")
    assert first["bbox"] == [80, 130, 8, 30]
    assert (first["iscrowd"], first["score"], first["area"]) == (0, 0.25, 237.0)
    assert first["attributes"]["probability"] == 0.812
    assert "probability" not in second["attributes"]
    (polygon,) = first["segmentation"]
    assert len(polygon) % 2 == 0
    assert len(polygon) >= 6


def test_the_polygons_of_coco_mark_the_regions_own_pixels_again():
    from dr_lib.localisation.masks import annotated_planes

    document = json.loads(coco(eyes(), ""))
    plane = annotated_planes([document["annotations"][0] | {"lesion": "any"}], SHAPE)["any"]
    drawn = np.zeros(SHAPE, bool)
    drawn[130:160, 80:88] = True
    assert np.logical_xor(plane, drawn).sum() <= 4  # corners


def test_csv_has_a_row_a_region_and_its_polygon_as_wkt():
    rows = list(csv.DictReader(io.StringIO(table(eyes()))))
    assert [row["region"] for row in rows] == ["0", "1"]
    assert (rows[0]["lesion"], rows[0]["probability"]) == ("haemorrhage", "0.812")
    assert (rows[1]["lesion"], rows[1]["probability"]) == ("", "")
    assert (rows[0]["left_px"], rows[0]["height_px"]) == ("80.0", "30.0")
    corners = rows[0]["polygon"].removeprefix("POLYGON ((").removesuffix("))").split(", ")
    assert corners[0] == corners[-1]


def test_geojson_is_a_collection_of_closed_polygons():
    document = json.loads(geojson(eyes()))
    assert document["type"] == "FeatureCollection"
    ring = document["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert document["features"][1]["properties"]["classification"] == {"name": "lesion"}


def test_nothing_to_export_is_still_a_valid_file():
    assert json.loads(coco([], ""))["annotations"] == []
    assert json.loads(geojson([]))["features"] == []
    assert table([]).count("\n") == 1
