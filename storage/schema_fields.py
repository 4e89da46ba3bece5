"""What every table's columns are called, hold and mean. Data only; `storage.schemas` makes pyarrow schemas of it.

One line a column: name, type, unit, description. A type that ends in `?` may be null. Measures (float32, float64) may
always be null: null says "undefined here", so that SQL's averages leave it out, where NaN would poison them.
"""

STAGES = range(5)
IMAGE = ("image_id", "string", "", "the photograph's id, such as 10_left")
STAGE = ("stage", "int8?", "", "true stage 0 none, 1 mild, 2 moderate, 3 severe, 4 proliferative; null where unknown")
OUTCOME_UNIT = "probability"


def _stage_columns(prefix: str, description: str) -> list[tuple]:
    return [(f"{prefix}{stage}", "float32", "probability", description.format(stage=stage)) for stage in STAGES]


_CHANGED_IMAGES = [
    IMAGE,
    ("method", "string", "", ""),
    ("target_stage", "int8", "", "the stage that the changed image should be given"),
    ("reached", "bool", "", "whether the model predicts the target stage for the changed image"),
    ("strength", "float32", "", "the smallest strength that reached the target, or the one of the best probability"),
    ("best_probability", "float32", "probability", "the target stage's highest probability at any strength tried"),
    *_stage_columns("probability_before_stage", "probability of stage {stage} for the image as it is"),
    *_stage_columns("probability_after_stage", "probability of stage {stage} for the changed image"),
    ("l0_share", "float32", "share", "share of the pixels that changed at all"),
    ("l1", "float32", "input units", "sum of the absolute changes; one input unit is 128 grey levels"),
    ("l2", "float32", "input units", "root of the sum of squared changes"),
    ("linf", "float32", "input units", "largest absolute change"),
    ("ssim", "float32", "", "structural similarity of the changed image to the original, 1 for the same"),
    ("total_variation_before", "float32", "input units", "mean absolute difference of neighbouring pixels, original"),
    ("total_variation_after", "float32", "input units", "mean absolute difference of neighbouring pixels, changed"),
    ("high_frequency_energy", "float32", "share", "share of the change's energy above a quarter of the sampling rate"),
]


def _changed_images(methods: str) -> list[tuple]:
    return [(name, kind, unit, methods if name == "method" else text) for name, kind, unit, text in _CHANGED_IMAGES]


SOURCE = ("source", "string", "", "which map: pixels, or the resultant of a layer such as stem")
QUANTITY = ("quantity", "string", "", "the model's output that was attributed: stage0 … stage4, or referable = 2 + 3 + 4")
LAYER = ("layer", "string", "", "the layer's name, such as stem or fc1")

TITLES = {
    "photos": "One row per photograph found: the manifest. `position` is its row on every image axis.",
    "rejects": "Photographs and rows of the labels set aside, with the reason.",
    "predictions": "What the model says about every image.",
    "attributions": "Outcome to pixels: one row per image and quantity.",
    "neurons": "The strongest neurons of a layer, and their active regions.",
    "lesion_regions": "Connected regions of high attribution, with place, size and strength.",
    "heatmap_stats": "One row per map: how much, how concentrated, where.",
    "group_heatmaps": "Profiles of the summed maps of groups of images, from the centre out and around the clock.",
    "counterfactuals": "Images moved along their own attribution until the model changes its mind.",
    "adversarials": "The same for adversarial examples, to compare with.",
    "linearity": "Units of a layer along adversarial examples of growing strength.",
    "units": "What each unit of a layer does over all images of the linearity study.",
    "evaluation": "The model's measures, with intervals from resampling patients.",
    "runs": "One row per run of a stage.",
}

COLUMNS = {
    "photos": [
        ("position", "int32", "", "row of the photograph on every image axis; never changes, only grows"),
        IMAGE,
        ("patient_id", "string", "", "both eyes of a patient carry one id"),
        ("eye", "string", "", "left or right"),
        STAGE,
        ("split", "string", "", "train, validation or test; both eyes of a patient are in one split"),
        ("usage", "string?", "", "Kaggle's Usage of its test photographs: Public or Private"),
        ("source", "string", "", "path inside the data folder or zip"),
        ("bytes", "int64", "B", "size of the file"),
        ("width_px", "int32", "px", "width by the file's header"),
        ("height_px", "int32", "px", "height by the file's header"),
        ("sha256", "string", "", "of the file's bytes"),
        ("present", "bool", "", "false once the photograph has left the data folder"),
    ],
    "rejects": [
        ("image_id", "string?", "", "the photograph's id; null where there is none"),
        ("source", "string?", "", "path inside the data folder, with the line for a row of a CSV file"),
        ("step", "string", "", "ingest or preprocess"),
        ("reason", "string", "", "a short code, such as empty, truncated, no_label"),
        ("detail", "string?", "", "what was found"),
    ],
    "predictions": [
        IMAGE,
        ("patient_id", "string", "", "both eyes of a patient carry one id"),
        ("eye", "string", "", "left or right"),
        ("split", "string", "", "train, validation or test"),
        STAGE,
        ("predicted_stage", "int8", "", "the stage of the highest probability"),
        *_stage_columns("probability_stage", "softmax output of stage {stage}"),
        ("expected_stage", "float32", "", "mean stage under the probabilities"),
        ("probability_referable", "float32", "probability", "probability of stage 2 or higher"),
    ],
    "attributions": [
        IMAGE,
        QUANTITY,
        ("outcome", "float32", OUTCOME_UNIT, "F(x): the quantity for the image"),
        ("baseline_outcome", "float32", OUTCOME_UNIT, "F(x'): the quantity for the half-grey image"),
        ("gap", "float32", OUTCOME_UNIT, "sum of the attributions − (F(x) − F(x')): 0 when complete"),
        ("relative_gap", "float32", "share", "|gap| / |F(x) − F(x')|"),
        ("map_error", "float32", "share", "change of the map from n to 2n points, relative to the map"),
        ("points", "int32", "", "points used on the line from baseline to image"),
        ("converged", "bool", "", "whether the tolerance was met"),
        ("positive_sum", "float32", OUTCOME_UNIT, "sum of the positive attributions"),
        ("negative_sum", "float32", OUTCOME_UNIT, "sum of the negative attributions"),
    ],
    "neurons": [
        IMAGE,
        LAYER,
        ("sign", "string", "", "positive or negative"),
        ("rank", "int16", "", "0 for the strongest of its sign"),
        ("neuron_y", "int16?", "", "row of the neuron; null in a dense layer"),
        ("neuron_x", "int16?", "", "column of the neuron; null in a dense layer"),
        ("channel", "int32", "", "channel of the neuron, or the unit of a dense layer"),
        ("attribution", "float32", OUTCOME_UNIT, "the outcome's attribution to this neuron"),
        ("activation", "float32", "activation", "h(x): the neuron for the image"),
        ("baseline_activation", "float32", "activation", "h(x'): the neuron for the half-grey image"),
        ("gap", "float32", "activation", "sum of the region − (h(x) − h(x'))"),
        ("region_total", "float32", "activation", "sum of the neuron's active region"),
        ("region_extent_px", "float32", "px", "radius of gyration of the region's absolute values"),
        ("region_peak", "float32", "activation", "largest absolute value in the region"),
        ("region_top1_share", "float32", "share", "share of the absolute sum in the strongest 1 % of the pixels"),
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
        ("quadrant", "string", "", "superior_temporal, superior_nasal, inferior_temporal or inferior_nasal"),
        ("ring", "int8", "", "0 inner, 1 middle, 2 outer third of the radius"),
        ("bbox_top_px", "int32", "px", "first row"),
        ("bbox_left_px", "int32", "px", "first column"),
        ("bbox_bottom_px", "int32", "px", "row after the last"),
        ("bbox_right_px", "int32", "px", "column after the last"),
        ("attribution_sum", "float32", OUTCOME_UNIT, "sum of the attributions in the region"),
        ("attribution_mean", "float32", OUTCOME_UNIT, "mean per pixel"),
        ("attribution_peak", "float32", OUTCOME_UNIT, "strongest pixel"),
        ("image_share", "float32", "share", "share of the map's sum of this sign"),
        ("eccentricity", "float32", "", "of the ellipse with the same moments: 0 circle, 1 line"),
        ("solidity", "float32", "share", "area over the convex hull's area"),
        ("contrast", "float32", "grey levels", "fundus inside the region minus its surroundings"),
    ],
    "heatmap_stats": [
        IMAGE,
        SOURCE,
        QUANTITY,
        ("positive_total", "float32", OUTCOME_UNIT, "sum of the positive attributions"),
        ("negative_total", "float32", OUTCOME_UNIT, "sum of the negative attributions"),
        ("top1_share", "float32", "share", "share of the absolute sum in the strongest 1 % of the pixels"),
        ("entropy", "float32", "bit", "entropy of the absolute map over its pixels"),
        ("gini", "float32", "", "Gini coefficient of the absolute map: 0 even, 1 one pixel"),
        ("share_superior_temporal", "float32", "share", "share of the absolute sum above the centre, on the temple's side"),
        ("share_superior_nasal", "float32", "share", "the same above, on the nose's side"),
        ("share_inferior_temporal", "float32", "share", "the same below, on the temple's side"),
        ("share_inferior_nasal", "float32", "share", "the same below, on the nose's side"),
        ("share_ring0", "float32", "share", "share of the absolute sum in the inner third of the radius"),
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
    ],
    "group_heatmaps": [
        ("group_name", "string", "", "the group of images, such as stage=4 or predicted_stage=0"),
        SOURCE,
        QUANTITY,
        ("images", "int32", "", "number of images in the group"),
        ("profile", "string", "", "radial (bins from centre to rim) or angular (bins around the clock)"),
        ("bin", "int16", "", "number of the bin"),
        ("mean_positive", "float32", OUTCOME_UNIT, "mean positive attribution per pixel of the bin and image"),
        ("mean_negative", "float32", OUTCOME_UNIT, "mean negative attribution per pixel of the bin and image"),
    ],
    "counterfactuals": _changed_images("proportional or constant: the form of METHOD §7"),
    "adversarials": _changed_images("fgsm_linf, pgd_linf, fgsm_l2 or pgd_l2"),
    "linearity": [
        IMAGE,
        LAYER,
        ("strength", "float32", "input units", "size c of the adversarial step"),
        ("unit", "int32", "", "number of the unit"),
        ("outcome", "float32", OUTCOME_UNIT, "F of the adversarial example"),
        ("activation_difference", "float32", "activation", "h − h': the unit's activation minus its baseline's"),
        ("mean_gradient", "float32", "probability per activation", "∫ ∂F/∂h along the line"),
        ("attribution", "float32", OUTCOME_UNIT, "the outcome's attribution to the unit"),
    ],
    "units": [
        LAYER,
        ("unit", "int32", "", "number of the unit"),
        ("verdict", "string", "", "what the unit does as the outcome grows, such as linear, constant or opposite"),
        ("images", "int32", "", "number of images judged"),
        ("gradient_variation", "float32", "share", "spread of the mean gradient over strengths, relative to its size"),
        ("slope", "float32", "", "slope of attribution against activation difference"),
        ("r2", "float32", "share", "variance of the attribution that the straight line explains"),
        ("mean_attribution", "float32", OUTCOME_UNIT, "mean over images and strengths"),
        ("strongest_image_id", "string?", "", "the image on which the unit's attribution is strongest"),
    ],
    "evaluation": [
        ("split", "string", "", "train, validation or test"),
        ("stratum", "string", "", "all, or the part of the images measured"),
        ("metric", "string", "", "the measure's name"),
        ("value", "float64", "", "the measure"),
        ("low", "float64", "", "lower end of the 95 % interval over patients"),
        ("high", "float64", "", "upper end of the 95 % interval over patients"),
        ("images", "int32", "", "number of images measured"),
    ],
    "runs": [
        ("run_id", "string", "", "the run's id"),
        ("stage", "string", "", "the stage of the pipeline, such as preprocess"),
        ("state", "string", "", "done or failed"),
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
    "predictions": "model_id",
    "evaluation": "model_id",
    "runs": None,
    **dict.fromkeys(
        [
            "attributions",
            "neurons",
            "lesion_regions",
            "heatmap_stats",
            "group_heatmaps",
            "counterfactuals",
            "adversarials",
            "linearity",
            "units",
        ],
        "explain_id",
    ),
}

# The columns that name one row of a partition: no two rows share them.
KEYS = {
    "photos": ["image_id"],
    "rejects": [],
    "predictions": ["image_id"],
    "attributions": ["image_id", "quantity"],
    "neurons": ["image_id", "layer", "sign", "rank"],
    "lesion_regions": ["image_id", "source", "quantity", "sign", "region"],
    "heatmap_stats": ["image_id", "source", "quantity"],
    "group_heatmaps": ["group_name", "source", "quantity", "profile", "bin"],
    "counterfactuals": ["image_id", "method", "target_stage"],
    "adversarials": ["image_id", "method", "target_stage"],
    "linearity": ["image_id", "layer", "strength", "unit"],
    "units": ["layer", "unit"],
    "evaluation": ["split", "stratum", "metric"],
    "runs": ["run_id"],
}
