"""What every table's columns are called, hold and mean. Data only; `storage.tables.schemas` makes
pyarrow schemas of it.

One line a column: name, type, unit, description. A type that ends in `?` may be null. Measures
(float32, float64) may always be null: null says "undefined here", so that SQL's averages leave it
out, where NaN would poison them.
"""

STAGES = range(5)
LESIONS = (
    "microaneurysm",
    "haemorrhage",
    "hard_exudate",
    "soft_exudate",
    "new_vessels",
    "preretinal_haemorrhage",
)
IMAGE = ("image_id", "string", "", "the photograph's id, such as 10_left")
STAGE = (
    "stage",
    "int8?",
    "",
    "true stage 0 none, 1 mild, 2 moderate, 3 severe, 4 proliferative; null where unknown",
)
QUANTITY_UNIT = "unit of the quantity"
MAP_UNIT = "unit of the map"


def _stage_columns(prefix: str, description: str) -> list[tuple]:
    return [
        (f"{prefix}{stage}", "float32", "probability", description.format(stage=stage))
        for stage in STAGES
    ]


_CHANGED_IMAGES = [
    IMAGE,
    ("method", "string", "", ""),
    ("target_stage", "int8", "", "the stage that the changed image should be given"),
    ("reached", "bool", "", "whether the model predicts the target stage for the changed image"),
    (
        "strength",
        "float32",
        "",
        "the smallest strength that reached the target, or the one of the best probability",
    ),
    (
        "best_probability",
        "float32",
        "probability",
        "the target stage's highest probability at any strength tried",
    ),
    *_stage_columns(
        "probability_before_stage", "probability of stage {stage} for the image as it is"
    ),
    *_stage_columns(
        "probability_after_stage", "probability of stage {stage} for the changed image"
    ),
    ("l0_share", "float32", "share", "share of the pixels that changed at all"),
    (
        "l1",
        "float32",
        "input units",
        "sum of the absolute changes; one input unit is 128 grey levels",
    ),
    ("l2", "float32", "input units", "root of the sum of squared changes"),
    ("linf", "float32", "input units", "largest absolute change"),
    (
        "ssim",
        "float32",
        "",
        "structural similarity of the changed image to the original, 1 for the same",
    ),
    (
        "total_variation_before",
        "float32",
        "input units",
        "mean absolute difference of neighbouring pixels, original",
    ),
    (
        "total_variation_after",
        "float32",
        "input units",
        "mean absolute difference of neighbouring pixels, changed",
    ),
    (
        "high_frequency_energy",
        "float32",
        "share",
        "share of the change's energy above a quarter of the sampling rate",
    ),
    (
        "feature_distance_before",
        "float32",
        "",
        "from the original to the nearest other eye of true stage `target_stage`, pooled features",
    ),
    (
        "feature_distance_after",
        "float32",
        "",
        "the same from the changed image: near the typical distance, it looks real to the model",
    ),
    (
        "feature_distance_typical",
        "float32",
        "",
        "median distance of eyes of that stage to the nearest other one of them",
    ),
    (
        "second_model_id",
        "string?",
        "",
        "the model that was asked whether the change transfers; null where none was",
    ),
    (
        "second_stage_before",
        "int8?",
        "",
        "the stage that the second model predicts for the original",
    ),
    (
        "second_stage_after",
        "int8?",
        "",
        "the stage that the second model predicts for the changed image",
    ),
    (
        "second_probability_before",
        "float32",
        "probability",
        "of the target stage by the second model, original",
    ),
    (
        "second_probability_after",
        "float32",
        "probability",
        "of the target stage by the second model, changed image",
    ),
]
PAIR = [
    ("true_stage", "int8", "", "true stage of the eyes"),
    ("predicted_stage", "int8", "", "stage that the model predicts for them"),
    ("target_stage", "int8", "", "stage that the changed images should be given"),
]


def _changed_images(methods: str) -> list[tuple]:
    return [
        (name, kind, unit, methods if name == "method" else text)
        for name, kind, unit, text in _CHANGED_IMAGES
    ]


SOURCE = (
    "source",
    "string",
    "",
    (
        "which map: pixels or lesion (the lesion map), in the quantity's unit; or a layer's"
        " resultant such as stem, in that × activation"
    ),
)
STAMP = (
    "stamp",
    "string?",
    "",
    (
        "modification time (mtime_ns=…) or, inside a zip, checksum (crc32=…): while path, size and"
        " stamp stay, it is not read again"
    ),
)
QUANTITY = (
    "quantity",
    "string",
    "",
    (
        "a probability: stage0 … stage4, referable = 2 + 3 + 4; a logit: logit3; log-odds:"
        " logodds3:0, disease = 1 to 4 against 0"
    ),
)
CONVERGED = (
    "converged",
    "bool?",
    "",
    "whether the map met the tolerance; null for a layer's resultant, which has no such mark",
)
LAYER = ("layer", "string", "", "the layer's name, such as stem or fc1")

PREDICTION = [
    IMAGE,
    ("patient_id", "string", "", "both eyes of a patient carry one id"),
    ("eye", "string", "", "left or right"),
    ("split", "string", "", "train, validation or test"),
    STAGE,
    ("predicted_stage", "int8", "", "the stage of the highest probability"),
    *_stage_columns("probability_stage", "softmax output of stage {stage}"),
    ("expected_stage", "float32", "", "mean stage under the probabilities"),
    ("probability_referable", "float32", "probability", "probability of stage 2 or higher"),
]

TITLES = {
    "photos": (
        "One row per photograph found: the manifest. `position` is its row on every image axis."
    ),
    "rejects": "Photographs and rows of the labels set aside, with the reason.",
    "quality": (
        "How usable each preprocessed photograph is, who is flagged, and where its retina lies."
    ),
    "predictions": "What the model says about every image.",
    "pose_predictions": (
        "The same, averaged over poses of the disc (grading.poses); eyes of the train split are"
        " left out."
    ),
    "attributions": "Outcome to pixels: one row per image and quantity.",
    "neurons": "The strongest neurons of a layer, and their active regions.",
    "lesion_regions": "Connected regions of high attribution, with place, size and strength.",
    "heatmap_stats": "One row per map: how much, how concentrated, where.",
    "region_clusters": (
        "Regions grouped by how the fundus looks there, without labels; lesion types beside them"
        " where masks are."
    ),
    "group_heatmaps": (
        "Profiles of the summed maps of groups of images, from the centre out and around the clock."
    ),
    "counterfactuals": "Images moved along their own attribution until the model changes its mind.",
    "adversarials": "The same for adversarial examples, to compare with.",
    "comparisons": (
        "Counterfactuals against adversarial examples of the same outcome, pair by pair of the eyes"
        " that both reached."
    ),
    "transfers": "How many changed images change a second model's mind too.",
    "linearity": "Units of a layer along adversarial examples of growing strength.",
    "units": (
        "What each unit of a layer does: along adversarial examples (linearity), and on lesions"
        " where there are masks."
    ),
    "unit_effects": (
        "The constant and reversed units one by one: which stages each argues for in an eye, and"
        " what is without it."
    ),
    "evaluation": (
        "The model's measures, and how well maps find lesions, with intervals from resampling"
        " patients."
    ),
    "runs": "One row per run of a stage.",
}

COLUMNS = {
    "photos": [
        (
            "position",
            "int32",
            "",
            "row of the photograph on every image axis; never changes, only grows",
        ),
        IMAGE,
        ("patient_id", "string", "", "both eyes of a patient carry one id"),
        ("eye", "string", "", "left or right"),
        STAGE,
        (
            "split",
            "string",
            "",
            "train, validation or test; both eyes of a patient are in one split",
        ),
        ("usage", "string?", "", "Kaggle's Usage of its test photographs: Public or Private"),
        ("source", "string", "", "path inside the data folder or zip"),
        ("bytes", "int64", "B", "size of the file"),
        ("width_px", "int32", "px", "width by the file's header"),
        ("height_px", "int32", "px", "height by the file's header"),
        ("sha256", "string", "", "of the file's bytes"),
        STAMP,
        ("present", "bool", "", "false once the photograph has left the data folder"),
    ],
    "rejects": [
        ("image_id", "string?", "", "the photograph's id; null where there is none"),
        (
            "source",
            "string?",
            "",
            "path inside the data folder, with the line for a row of a CSV file",
        ),
        ("step", "string", "", "ingest or preprocess"),
        ("reason", "string", "", "a short code, such as empty, truncated, no_label"),
        ("detail", "string?", "", "what was found"),
        ("bytes", "int64?", "B", "size of a file that was read and is set aside for what is in it"),
        STAMP,
        ("sha256", "string?", "", "of the bytes of a second copy"),
    ],
    "quality": [
        IMAGE,
        (
            "flagged",
            "bool",
            "",
            (
                "whether the score lies below preprocess.quality_threshold, as it was at the last"
                " dr preprocess"
            ),
        ),
        ("score", "float32", "probability", "that a person would call the eye gradable"),
        (
            "exposure",
            "float32",
            "share",
            "green's mean (the channel that shows vessels): 0 black, 1 white",
        ),
        (
            "redness",
            "float32",
            "share",
            "red's 95th percentile over the blocks' means: 0 black, 1 white",
        ),
        (
            "haze",
            "float32",
            "share",
            "blue's 95th percentile over the blocks' means: 0 black, 1 white",
        ),
        ("saturated", "float32", "share", "of the pixels whose green is over 240 of 255"),
        (
            "contrast",
            "float32",
            "share",
            "green's standard deviation, 1 for the whole range of brightness",
        ),
        (
            "sharpness",
            "float32",
            "grey levels",
            "green's detail at 1 to 2 px (small vessels) in the weakest quarter",
        ),
        (
            "weakest",
            "float32",
            "grey levels",
            "red's detail at 1 to 2 px that nine tenths of the blocks exceed",
        ),
        (
            "clarity",
            "float32",
            "share",
            "median over the blocks of green's detail at 1 to 2 px over the block's tone",
        ),
        (
            "vessels",
            "float32",
            "grey levels",
            "red's detail at 2 to 4 px in the strongest tenth of the blocks",
        ),
        (
            "structure",
            "float32",
            "grey levels",
            "spread of green's detail at 8 to 24 px: optic disc, shadows, large vessels",
        ),
        ("shadow", "float32", "grey levels", "depth of the darkest hundredth of that detail"),
        ("visible", "float32", "share", "of the kept disc that shows retina"),
        ("confidence", "float32", "share", "confidence of the retina's disc: 0 none, 1 full"),
        (
            "diameter_px",
            "float32",
            "px",
            "diameter of the retina's disc in the original photograph",
        ),
        (
            "centre_y_px",
            "float32",
            "px",
            "row of the disc's centre in the original photograph, from the top",
        ),
        (
            "centre_x_px",
            "float32",
            "px",
            "column of the disc's centre in the original photograph, from the left",
        ),
    ],
    "predictions": PREDICTION,
    "pose_predictions": [
        *PREDICTION,
        ("poses", "int8", "", "poses of the disc that were averaged: 2, 4 or 8"),
    ],
    "attributions": [
        IMAGE,
        QUANTITY,
        (
            "outcome",
            "float32",
            QUANTITY_UNIT,
            "F(x): the quantity for the image; a probability lies in [0, 1]",
        ),
        (
            "baseline_outcome",
            "float32",
            QUANTITY_UNIT,
            "F(x'): the quantity for the half-grey image, likewise",
        ),
        (
            "gap",
            "float32",
            QUANTITY_UNIT,
            "sum of the attributions − (F(x) − F(x')): 0 when complete",
        ),
        ("relative_gap", "float32", "share", "|gap| / |F(x) − F(x')|"),
        (
            "map_error",
            "float32",
            "share",
            "change of the map from n to 2n points, relative to the map",
        ),
        ("points", "int32", "", "points used on the line from baseline to image"),
        ("converged", "bool", "", "whether the tolerance was met"),
        ("positive_sum", "float32", QUANTITY_UNIT, "sum of the positive attributions"),
        ("negative_sum", "float32", QUANTITY_UNIT, "sum of the negative attributions"),
        (
            "failure",
            "string?",
            "",
            "why the image could not be explained, its measures then being null; null where it was",
        ),
    ],
    "neurons": [
        IMAGE,
        LAYER,
        ("sign", "string", "", "positive or negative"),
        ("rank", "int16", "", "0 for the strongest of its sign"),
        ("neuron_y", "int16?", "", "row of the neuron; null in a dense layer"),
        ("neuron_x", "int16?", "", "column of the neuron; null in a dense layer"),
        ("channel", "int32", "", "channel of the neuron, or the unit of a dense layer"),
        (
            "attribution",
            "float32",
            QUANTITY_UNIT,
            "attribution of the layer's quantity to this neuron",
        ),
        ("activation", "float32", "activation", "h(x): the neuron for the image"),
        (
            "baseline_activation",
            "float32",
            "activation",
            "h(x'): the neuron for the half-grey image",
        ),
        ("gap", "float32", "activation", "sum of the region − (h(x) − h(x'))"),
        ("region_total", "float32", "activation", "sum of the neuron's active region"),
        ("region_extent_px", "float32", "px", "radius of gyration of the region's absolute values"),
        ("region_peak", "float32", "activation", "largest absolute value in the region"),
        (
            "region_top1_share",
            "float32",
            "share",
            "share of the absolute sum in the strongest 1 % of the pixels",
        ),
    ],
    "lesion_regions": [
        IMAGE,
        SOURCE,
        QUANTITY,
        ("sign", "string", "", "positive or negative"),
        ("region", "int32", "", "number of the region in its map, 0 for the strongest"),
        ("area_px", "float32", "px²", "area"),
        ("disc_share", "float32", "share", "area over the visible disc's area"),
        ("centroid_y_px", "float32", "px", "row of the centroid, 0 at the top"),
        ("centroid_x_px", "float32", "px", "column of the centroid, 0 at the left"),
        ("radius_share", "float32", "share", "distance from the disc's centre: 0 centre, 1 rim"),
        ("angle_deg", "float32", "°", "direction from the centre: 0 nasal, 90 superior"),
        (
            "quadrant",
            "string",
            "",
            "superior_temporal, superior_nasal, inferior_temporal or inferior_nasal",
        ),
        ("ring", "int8", "", "0 inner, 1 middle, 2 outer third of the radius"),
        ("bbox_top_px", "int32", "px", "first row"),
        ("bbox_left_px", "int32", "px", "first column"),
        ("bbox_bottom_px", "int32", "px", "row after the last"),
        ("bbox_right_px", "int32", "px", "column after the last"),
        ("attribution_sum", "float32", MAP_UNIT, "sum of the attributions in the region"),
        ("attribution_mean", "float32", MAP_UNIT, "mean per pixel"),
        ("attribution_peak", "float32", MAP_UNIT, "strongest pixel"),
        ("image_share", "float32", "share", "share of the map's sum of this sign"),
        ("eccentricity", "float32", "", "of the ellipse with the same moments: 0 circle, 1 line"),
        ("solidity", "float32", "share", "area over the convex hull's area"),
        ("contrast", "float32", "grey levels", "fundus inside the region minus its surroundings"),
        (
            "optic_disc_distance_px",
            "float32",
            "px",
            "from the centroid to the optic disc's centre; null where no optic disc was found",
        ),
        CONVERGED,
    ],
    "heatmap_stats": [
        IMAGE,
        SOURCE,
        QUANTITY,
        ("positive_total", "float32", MAP_UNIT, "sum of the positive attributions"),
        ("negative_total", "float32", MAP_UNIT, "sum of the negative attributions"),
        (
            "top1_share",
            "float32",
            "share",
            "share of the absolute sum in the strongest 1 % of the pixels",
        ),
        ("entropy", "float32", "bit", "entropy of the absolute map over its pixels"),
        ("gini", "float32", "", "Gini coefficient of the absolute map: 0 even, 1 one pixel"),
        (
            "share_superior_temporal",
            "float32",
            "share",
            "share of the absolute sum above the centre, on the temple's side",
        ),
        ("share_superior_nasal", "float32", "share", "the same above, on the nose's side"),
        ("share_inferior_temporal", "float32", "share", "the same below, on the temple's side"),
        ("share_inferior_nasal", "float32", "share", "the same below, on the nose's side"),
        (
            "share_ring0",
            "float32",
            "share",
            "share of the absolute sum in the inner third of the radius",
        ),
        ("share_ring1", "float32", "share", "the same in the middle third"),
        ("share_ring2", "float32", "share", "the same in the outer third"),
        ("regions_positive", "int32", "", "number of positive regions"),
        ("regions_negative", "int32", "", "number of negative regions"),
        (
            "symmetry_stage0_stage4",
            "float32",
            "correlation",
            "correlation of the maps toward stages 0 and 4",
        ),
        (
            "share_optic_disc",
            "float32",
            "share",
            "share of the absolute sum on the optic disc, which covers about 0.03 of the area",
        ),
        (
            "share_border",
            "float32",
            "share",
            "share of the absolute sum in the outer tenth of the radius, 0.19 of the area",
        ),
        (
            "optic_disc_y_px",
            "float32",
            "px",
            "row of the optic disc's centre; null where none was found",
        ),
        (
            "optic_disc_x_px",
            "float32",
            "px",
            "column of the optic disc's centre; null where none was found",
        ),
        CONVERGED,
    ],
    "region_clusters": [
        IMAGE,
        SOURCE,
        QUANTITY,
        ("sign", "string", "", "positive or negative"),
        ("region", "int32", "", "number of the region in `lesion_regions`"),
        (
            "cluster",
            "int16",
            "",
            "group of regions that look alike, 0 for the largest; made without any label",
        ),
        (
            "distance",
            "float32",
            "",
            "from the cluster's centre, in standard deviations of the features",
        ),
        (
            "silhouette",
            "float32",
            "",
            "1 well inside its cluster, 0 between two, below 0 nearer to another",
        ),
        (
            "lesion",
            "string?",
            "",
            "the lesion type that the mask shows most of in the region, none; null without a mask",
        ),
    ],
    "group_heatmaps": [
        ("group_name", "string", "", "the group of images, such as stage=4 or predicted_stage=0"),
        SOURCE,
        QUANTITY,
        ("images", "int32", "", "number of images in the group"),
        (
            "profile",
            "string",
            "",
            "radial (bins from centre to rim) or angular (bins around the clock)",
        ),
        ("bin", "int16", "", "number of the bin"),
        (
            "mean_positive",
            "float32",
            MAP_UNIT,
            "mean positive attribution per pixel of the bin and image",
        ),
        (
            "mean_negative",
            "float32",
            MAP_UNIT,
            "mean negative attribution per pixel of the bin and image",
        ),
    ],
    "counterfactuals": _changed_images(
        "proportional or constant, the form of METHOD §7; with _strongest or _regions only the"
        " strongest pixels or regions move, with _recomputed the attribution is taken anew on"
        " the way"
    ),
    "adversarials": _changed_images("fgsm_linf, pgd_linf, fgsm_l2 or pgd_l2"),
    "comparisons": [
        *PAIR,
        (
            "measure",
            "string",
            "",
            "the column of counterfactuals and adversarials that is compared",
        ),
        ("first", "string", "", "the counterfactuals' method"),
        ("second", "string", "", "the adversarial examples' method"),
        ("pairs", "int32", "", "eyes that both methods brought to the target"),
        ("median_first", "float32", "", "median of the measure, first method"),
        ("median_second", "float32", "", "median of the measure, second method"),
        ("median_difference", "float32", "", "median of first − second, eye by eye"),
        ("low", "float32", "", "lower end of its 95 % interval, from resampling patients"),
        ("high", "float32", "", "upper end of that interval"),
        (
            "share_lower",
            "float32",
            "share",
            "eyes for which the first method's measure is the lower one",
        ),
        (
            "p_value",
            "float32",
            "",
            "Wilcoxon's signed-rank test, two-sided, not corrected for the number of comparisons",
        ),
    ],
    "transfers": [
        *PAIR,
        ("method", "string", "", "method of counterfactuals or adversarials"),
        ("second_model_id", "string", "", "the model that was asked"),
        (
            "eyes",
            "int32",
            "",
            "eyes that reached the target and to which the second model does not give it unchanged",
        ),
        (
            "transferred",
            "int32",
            "",
            "of these, eyes whose changed image gets the target stage from the second model",
        ),
        ("share", "float32", "share", "transferred over eyes"),
        ("low", "float32", "share", "lower end of Wilson's 95 % interval"),
        ("high", "float32", "share", "upper end of that interval"),
        (
            "mean_probability_gain",
            "float32",
            "probability",
            "mean rise of the target's probability by the second model",
        ),
    ],
    "linearity": [
        IMAGE,
        LAYER,
        ("strength", "float32", "input units", "size c of the adversarial step"),
        ("unit", "int32", "", "number of the unit"),
        (
            "outcome",
            "float32",
            "probability",
            "F of the adversarial example: the target stage's probability",
        ),
        (
            "predicted_stage",
            "int8",
            "",
            "the stage that the model predicts for the adversarial example",
        ),
        (
            "activation_difference",
            "float32",
            "activation",
            "h − h': the unit's activation minus its baseline's",
        ),
        ("mean_gradient", "float32", "probability per activation", "∫ ∂F/∂h along the line"),
        ("attribution", "float32", "probability", "the outcome's attribution to the unit"),
    ],
    "units": [
        LAYER,
        ("unit", "int32", "", "number of the unit"),
        (
            "verdict",
            "string?",
            "",
            (
                "what the unit does as the outcome grows, such as linear, constant or reversed; of"
                " study linearity"
            ),
        ),
        ("images", "int32", "", "number of images judged"),
        (
            "gradient_variation",
            "float32",
            "share",
            "spread of the mean gradient over strengths, relative to its size",
        ),
        ("slope", "float32", "", "slope of attribution against activation difference"),
        ("r2", "float32", "share", "variance of the attribution that the straight line explains"),
        ("mean_attribution", "float32", "probability", "mean over images and strengths"),
        (
            "strongest_image_id",
            "string?",
            "",
            "the image on which the unit's attribution is strongest",
        ),
        (
            "moved_share",
            "float32",
            "share",
            "range of the activation over strengths, relative to its largest difference",
        ),
        (
            "outcome_correlation",
            "float32",
            "correlation",
            "of attribution and outcome over strengths, within images",
        ),
        (
            "linear_up_to",
            "float32",
            "input units",
            "largest strength up to which the unit counts as linear; null for none",
        ),
        (
            "study",
            "string",
            "",
            (
                "linearity: along adversarial examples; lesions: a channel's activation beside"
                " lesion masks"
            ),
        ),
        ("best_lesion", "string?", "", "the lesion type whose AUC is furthest from 0.5"),
        (
            "lesion_auc",
            "float32",
            "",
            (
                "AUC of the channel's activation for that type, per eye, mean: under 0.5 it is"
                " quieter there"
            ),
        ),
        (
            "lesion_auc_low",
            "float32",
            "",
            "lower end of the 95 % interval over patients, for a type chosen beforehand",
        ),
        ("lesion_auc_high", "float32", "", "upper end of that interval"),
        (
            "lesion_auc_held_out",
            "float32",
            "",
            "AUC on one half of the patients for the type that was the best one on the other",
        ),
        (
            "lesion_auc_others",
            "float32",
            "",
            "AUC of the best type against pixels of all other lesions: does it tell them apart?",
        ),
        ("lesion_images", "int32?", "", "eyes with that type"),
        *[
            (f"auc_{kind}", "float32", "", f"AUC for {kind} against the rest of the visible disc")
            for kind in LESIONS
        ],
    ],
    "unit_effects": [
        LAYER,
        ("unit", "int32", "", "number of the unit"),
        IMAGE,
        ("verdict", "string", "", "constant or reversed"),
        (
            "rank",
            "int32",
            "",
            "0 for the image in which the unit's attribution to the target is largest in size",
        ),
        (
            "activation_difference",
            "float32",
            "activation",
            "h − h' for the image as it is; a channel's mean over positions",
        ),
        *_stage_columns(
            "attribution_stage",
            "attribution of stage {stage}'s outcome to the unit: positive where it argues for it",
        ),
        *_stage_columns(
            "effect_stage",
            "change of stage {stage}'s probability when the unit is set to its baseline",
        ),
        ("predicted_before", "int8", "", "the predicted stage as it is"),
        ("predicted_after", "int8", "", "the predicted stage with the unit at its baseline"),
    ],
    "evaluation": [
        ("split", "string", "", "train, validation or test"),
        (
            "stratum",
            "string",
            "",
            (
                "all, a part of the images such as eye=left, grading=… for a further reading of the"
                " model, or masks: eyes with lesion masks"
            ),
        ),
        ("metric", "string", "", "the measure's name"),
        ("value", "float64", "", "the measure"),
        ("low", "float64", "", "lower end of the 95 % interval over patients"),
        ("high", "float64", "", "upper end of the 95 % interval over patients"),
        ("images", "int32", "", "number of images measured"),
        (
            "explain_id",
            "string?",
            "",
            (
                "of a map that is judged by lesion masks: its explanation; null for measures of the"
                " model"
            ),
        ),
        (
            "source",
            "string?",
            "",
            (
                "the map that is judged: pixels, a layer, lesion, or a rival such as contrast or"
                " gradcam_mixed5"
            ),
        ),
        ("quantity", "string?", "", "what the map of pixels explains; null for the others"),
        (
            "lesion",
            "string?",
            "",
            "the lesion type that the map is judged by, any for all together",
        ),
        ("chance", "float64", "", "what a map of chance gets on the same eyes"),
    ],
    "runs": [
        ("run_id", "string", "", "the run's id"),
        ("stage", "string", "", "the stage of the pipeline, such as preprocess"),
        ("state", "string", "", "completed, failed or interrupted"),
        ("started", "timestamp", "", "when it started, UTC"),
        ("finished", "timestamp?", "", "when it finished, UTC"),
        ("seconds", "float64", "s", "how long it took"),
        ("images", "int64?", "", "images that the stage is about; null where it never came so far"),
        ("new_images", "int64?", "", "images of which this run did the work"),
        ("config_sha256", "string", "", "of the configuration used"),
        ("message", "string?", "", "one line on the outcome"),
        ("versions", "string?", "", "versions of the libraries, as JSON"),
    ],
}

# The id that a table depends on: its files lie in one folder per value of it.
PARTITION = {
    "photos": None,
    "rejects": None,
    "quality": "preprocess_id",
    "predictions": "model_id",
    "pose_predictions": "model_id",
    "evaluation": "model_id",
    "runs": None,
    **dict.fromkeys(
        [
            "attributions",
            "neurons",
            "lesion_regions",
            "heatmap_stats",
            "region_clusters",
            "group_heatmaps",
            "counterfactuals",
            "adversarials",
            "comparisons",
            "transfers",
            "linearity",
            "units",
            "unit_effects",
        ],
        "explain_id",
    ),
}

# The columns that name one row of a partition: no two rows share them.
KEYS = {
    "photos": ["image_id"],
    "rejects": [],
    "quality": ["image_id"],
    "predictions": ["image_id"],
    "pose_predictions": ["image_id"],
    "attributions": ["image_id", "quantity"],
    "neurons": ["image_id", "layer", "sign", "rank"],
    "lesion_regions": ["image_id", "source", "quantity", "sign", "region"],
    "heatmap_stats": ["image_id", "source", "quantity"],
    "region_clusters": ["image_id", "source", "quantity", "sign", "region"],
    "group_heatmaps": ["group_name", "source", "quantity", "profile", "bin"],
    "counterfactuals": ["image_id", "method", "target_stage"],
    "adversarials": ["image_id", "method", "target_stage"],
    "comparisons": ["true_stage", "predicted_stage", "target_stage", "measure", "first", "second"],
    "transfers": ["true_stage", "predicted_stage", "target_stage", "method", "second_model_id"],
    "linearity": ["image_id", "layer", "strength", "unit"],
    "units": ["study", "layer", "unit"],
    "unit_effects": ["layer", "unit", "image_id"],
    "evaluation": ["split", "stratum", "metric", "explain_id", "source", "quantity", "lesion"],
    "runs": ["run_id"],
}
