"""A workspace whose tables are filled with made-up rows of realistic number, type and spread: no
photograph, no model.

Everything goes through the real writer, a part a shard, as `dr aggregate` does; so what is measured
or asked here is what an analyst of a real run meets. A shard's rows depend on the seed and the
shard alone. Rates are those of the demo: about twenty regions a map and sign at most, a heavy tail
of strengths, stages as unbalanced as Kaggle's.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from dr_lib.vocabulary import LESION_TYPES, QUADRANTS
from storage import Workspace
from storage.arrays.store import Span, spans
from storage.contents.explanations import ExplanationRecord, save_record
from storage.tables.schemas import SCHEMAS

MODEL, EXPLANATION, PREPROCESSING = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
QUANTITIES = (*(f"stage{stage}" for stage in range(5)), "referable")
LAYERS = {
    "stem": (60, 192, 32),
    "mixed2": (30, 288, 144),
    "fc1": (0, 256, 256),
}  # side, channels, window
SHARES = (0.735, 0.07, 0.151, 0.025, 0.019)  # of Kaggle's stages
SIZE = 256
SHARD_TABLES = ("attributions", "neurons", "lesion_regions", "heatmap_stats")


def fill(
    workspace: Workspace, images: int, *, seed: int = 0, shard_images: int = 64
) -> Iterator[Span]:
    """Fills every table that the twenty questions ask; yields each shard when its parts are
    written.
    """
    eyes = made_eyes(images, seed)
    workspace.write_table("photos", frame_of("photos", photo_rows(eyes)))
    workspace.write_table(
        "quality", frame_of("quality", quality_rows(eyes, seed)), partition=PREPROCESSING
    )
    workspace.write_table("predictions", frame_of("predictions", eyes), partition=MODEL)
    workspace.write_table(
        "evaluation", frame_of("evaluation", evaluation_rows(images)), partition=MODEL
    )
    save_record(workspace.files, ExplanationRecord(EXPLANATION, MODEL, PREPROCESSING))
    clusters = []
    for span in spans(images, shard_images):
        rng = np.random.default_rng([seed, span.index])
        some = eyes.iloc[span.rows].reset_index(drop=True)
        tables = {"attributions": attribution_rows(some, rng), "neurons": neuron_rows(some, rng)}
        tables |= {"lesion_regions": region_rows(some, rng), "heatmap_stats": stat_rows(some, rng)}
        for table, rows in tables.items():
            part = f"{span.index:05d}"
            workspace.write_table(
                table, frame_of(table, rows), partition=EXPLANATION, part=part, digest=part
            )
        clusters.append(cluster_rows(tables["lesion_regions"], rng))
        yield span
    grouped = pd.concat(clusters, ignore_index=True)
    workspace.write_table(
        "region_clusters",
        frame_of("region_clusters", grouped),
        partition=EXPLANATION,
        part="clusters",
    )
    workspace.write_table(
        "group_heatmaps", group_rows(eyes, seed), partition=EXPLANATION, part="groups"
    )
    workspace.write_table("units", unit_rows(seed), partition=EXPLANATION, part="lesions")


def frame_of(table: str, rows: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """The columns of the table in its order; those that nobody filled are null."""
    given = pd.DataFrame(rows)
    return given.reindex(columns=SCHEMAS[table].names)


def made_eyes(images: int, seed: int) -> pd.DataFrame:
    """One row per eye, in the catalogue's order, with stage, prediction and probabilities."""
    rng = np.random.default_rng([seed, 10**6])
    number = np.arange(images) // 2 + 1
    eye = np.where(np.arange(images) % 2 == 0, "left", "right")
    stage = rng.choice(5, images, p=SHARES)
    logits = rng.normal(0, 1.2, (images, 5)) + 2.5 * np.eye(5)[stage]
    stage[:5], logits[:5] = (
        range(5),
        9 * np.eye(5),
    )  # so that no group of rightly predicted eyes is empty
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "position": np.arange(images),
            "image_id": [f"{n}_{side}" for n, side in zip(number, eye, strict=True)],
            "patient_id": number.astype(str),
            "eye": eye,
            "split": "test",
            "stage": stage,
            "predicted_stage": probability.argmax(axis=1),
            **{f"probability_stage{k}": probability[:, k] for k in range(5)},
            "expected_stage": probability @ np.arange(5),
            "probability_referable": probability[:, 2:].sum(axis=1),
        }
    )


def photo_rows(eyes: pd.DataFrame) -> pd.DataFrame:
    count = len(eyes)
    return eyes.assign(
        path=[f"test/{name}.jpeg" for name in eyes["image_id"]],
        bytes=1_000_000 + np.arange(count),
        width_px=3888,
        height_px=2592,
        sha256=[f"{n:064x}" for n in range(count)],
        present=True,
    )


def quality_rows(eyes: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, 10**6 + 1])
    score = rng.beta(6, 2, len(eyes))
    measures = {
        name: rng.random(len(eyes))
        for name in SCHEMAS["quality"].names
        if name not in ("image_id", "source", "flagged", "score")
    }
    return pd.DataFrame(
        {"image_id": eyes["image_id"], "flagged": score < 0.39, "score": score, **measures}
    )


def evaluation_rows(images: int) -> list[dict]:
    values = {"qwk": 0.78, "accuracy": 0.81, "auc_referable": 0.94, "auc_any": 0.9, "ece": 0.04}
    return [
        {
            "split": "test",
            "stratum": "all",
            "metric": name,
            "value": value,
            "low": value - 0.01,
            "high": value + 0.01,
            "images": images,
        }
        for name, value in values.items()
    ]


def attribution_rows(eyes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = _times(eyes, QUANTITIES, "quantity")
    count = len(rows)
    outcome = rng.beta(0.4, 1.2, count)
    baseline = np.full(count, 0.2)
    relative = rng.lognormal(-4.0, 0.8, count)
    failed = np.repeat(rng.random(len(eyes)) < 0.01, len(QUANTITIES))
    measures = {
        "outcome": outcome,
        "baseline_outcome": baseline,
        "gap": relative * (outcome - baseline),
        "relative_gap": relative,
        "map_error": rng.lognormal(-2.0, 0.5, count),
        "positive_sum": rng.lognormal(-1.0, 0.5, count),
        "negative_sum": -rng.lognormal(-1.0, 0.5, count),
    }
    return rows.assign(
        **{name: np.where(failed, np.nan, values) for name, values in measures.items()},
        points=np.where(failed, 0, rng.integers(16, 257, count)),
        converged=~failed & (relative < 0.05),
        failure=np.where(failed, "its results are not finite", None),
    )


def neuron_rows(eyes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for layer, (side, channels, window) in LAYERS.items():
        rows = _times(_times(eyes, ("positive", "negative"), "sign"), range(10), "rank")
        count = len(rows)
        sign = np.where(rows["sign"] == "positive", 1.0, -1.0)
        activation = rng.gamma(2.0, 1.0, count)
        parts.append(
            rows.assign(
                layer=layer,
                neuron_y=rng.integers(0, side, count) if side else None,
                neuron_x=rng.integers(0, side, count) if side else None,
                channel=np.minimum(rng.geometric(8 / channels, count), channels) - 1,
                attribution=sign * rng.lognormal(-6.0, 0.7, count),
                activation=activation,
                baseline_activation=0.1,
                gap=rng.normal(0, 0.01, count),
                region_total=activation - 0.1,
                region_extent_px=rng.normal(0.25 * window, 0.03 * window, count).clip(0.5),
                region_peak=rng.gamma(2.0, 0.05, count),
                region_top1_share=rng.beta(8, 8 * window / 96, count),
            )
        )
    return pd.concat(parts, ignore_index=True)


def _maps(eyes: pd.DataFrame) -> pd.DataFrame:
    """A row for every map of every eye: the quantities on pixels, each layer's resultant of the
    predicted stage.
    """
    pixels = _times(eyes, QUANTITIES, "quantity").assign(source="pixels")
    layers = [
        eyes.assign(source=layer, quantity="stage" + eyes["predicted_stage"].astype(str))
        for layer in LAYERS
    ]
    return pd.concat([pixels, *layers], ignore_index=True)


def region_rows(eyes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    maps = _times(_maps(eyes), ("positive", "negative"), "sign")
    number = np.minimum(rng.geometric(1 / 14, len(maps)), 20)
    rows = maps.loc[maps.index.repeat(number)].reset_index(drop=True)
    count = len(rows)
    region = np.concatenate([np.arange(n) for n in number])
    y, x = (rng.normal(127.5, 45, count).clip(14, 241) for _ in range(2))
    area = rng.lognormal(3.3, 0.8, count).clip(8)
    strength = (
        np.where(rows["sign"] == "positive", 1, -1) * rng.lognormal(-4.5, 0.8, count) / (1 + region)
    )
    radius, angle = (
        np.hypot(y - 127.5, x - 127.5) / 115.2,
        np.degrees(np.arctan2(127.5 - y, x - 127.5)) % 360,
    )
    quadrants = np.array(QUADRANTS)
    half = np.sqrt(area) / 2
    return rows.assign(
        region=region,
        area_px=area.round(),
        disc_share=area / 41_692,
        centroid_y_px=y,
        centroid_x_px=x,
        radius_share=radius.clip(0, 1),
        angle_deg=angle,
        quadrant=quadrants[np.where(angle < 180, 0, 2) + ((angle < 90) | (angle >= 270))],
        ring=np.minimum((radius * 3).astype(int), 2),
        bbox_top_px=(y - half).astype(int),
        bbox_left_px=(x - half).astype(int),
        bbox_bottom_px=(y + half).astype(int) + 1,
        bbox_right_px=(x + half).astype(int) + 1,
        attribution_sum=strength,
        attribution_mean=strength / area,
        attribution_peak=3 * strength / area,
        image_share=rng.beta(1, 12, count),
        eccentricity=rng.beta(4, 2, count),
        solidity=rng.beta(10, 1.5, count),
        contrast=np.where(rng.random(count) < 0.02, np.nan, rng.normal(-4, 18, count)),
        optic_disc_distance_px=np.hypot(y - 125, x - 205),
        converged=np.where(rows["source"] == "pixels", rng.random(count) < 0.97, None),
    )


def stat_rows(eyes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = _maps(eyes)
    count = len(rows)
    quadrants, rings = rng.dirichlet([8] * 4, count), rng.dirichlet([4, 8, 10], count)
    ends = rows["quantity"].isin(["stage0", "stage4"]) & (rows["source"] == "pixels")
    return rows.assign(
        positive_total=rng.lognormal(-1.0, 0.6, count),
        negative_total=-rng.lognormal(-1.0, 0.6, count),
        top1_share=rng.beta(4, 12, count),
        entropy=rng.normal(13.5, 0.6, count),
        gini=rng.beta(14, 6, count),
        **{f"share_{name}": quadrants[:, at] for at, name in enumerate(QUADRANTS)},
        **{f"share_ring{ring}": rings[:, ring] for ring in range(3)},
        regions_positive=rng.integers(0, 40, count),
        regions_negative=rng.integers(0, 40, count),
        symmetry_stage0_stage4=np.where(ends, rng.normal(-0.6, 0.2, count).clip(-1, 1), np.nan),
        share_optic_disc=rng.beta(2, 40, count),
        share_border=rng.beta(4, 16, count),
        optic_disc_y_px=125.0,
        optic_disc_x_px=205.0,
        converged=np.where(rows["source"] == "pixels", rng.random(count) < 0.97, None),
    )


def cluster_rows(regions: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    some = regions[(regions["source"] == "stem") & (regions["sign"] == "positive")]
    names = np.array([*LESION_TYPES, "none"])
    return some[["image_id", "source", "quantity", "sign", "region"]].assign(
        cluster=np.minimum(rng.geometric(0.25, len(some)), 8) - 1,
        distance=rng.gamma(4.0, 0.8, len(some)),
        silhouette=np.nan,
        lesion=names[rng.integers(0, len(names), len(some))],
    )


def group_rows(eyes: pd.DataFrame, seed: int) -> list[dict]:
    rng = np.random.default_rng([seed, 10**6 + 2])
    pairs = eyes.groupby(["stage", "predicted_stage"]).size()
    groups = {
        f"stage={stage},predicted_stage={predicted}": int(count)
        for (stage, predicted), count in pairs.items()
    }
    groups |= {"all": len(eyes)} | {
        f"stage={stage}": int(count) for stage, count in eyes["stage"].value_counts().items()
    }
    return [
        {
            "group_name": group,
            "source": "pixels",
            "quantity": quantity,
            "images": count,
            "profile": profile,
            "bin": at,
            "mean_positive": float(rng.gamma(2.0, 1e-6)),
            "mean_negative": -float(rng.gamma(2.0, 1e-6)),
        }
        for group, count in groups.items()
        for quantity in QUANTITIES
        for profile, bins in (("radial", 10), ("angular", 12))
        for at in range(bins)
    ]


def unit_rows(seed: int) -> list[dict]:
    rng = np.random.default_rng([seed, 10**6 + 3])
    kinds, empty = LESION_TYPES, dict.fromkeys(SCHEMAS["units"].names)
    rows = []
    for layer in ("stem", "mixed2"):
        for unit in range(LAYERS[layer][1]):
            auc = rng.beta(12, 10, len(kinds))
            best = int(np.abs(auc - 0.5).argmax())
            judged = {
                "best_lesion": kinds[best],
                "lesion_auc": auc[best],
                "lesion_auc_held_out": auc[best] - 0.01,
            }
            judged |= {
                "lesion_auc_low": auc[best] - 0.02,
                "lesion_auc_high": auc[best] + 0.02,
                "lesion_auc_others": 0.6,
            }
            judged |= {f"auc_{kind}": value for kind, value in zip(kinds, auc, strict=True)}
            rows.append(
                empty
                | {
                    "layer": layer,
                    "unit": unit,
                    "study": "lesions",
                    "images": 64,
                    "lesion_images": 40,
                }
                | judged
            )
    return rows


def _times(rows: pd.DataFrame, values, name: str) -> pd.DataFrame:
    """Every row with every value, the values running fastest."""
    values = list(values)
    repeated = rows.loc[rows.index.repeat(len(values))].reset_index(drop=True)
    repeated[name] = np.tile(
        np.array(values, dtype=object if isinstance(values[0], str) else None), len(rows)
    )
    return repeated
