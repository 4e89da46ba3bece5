"""Where everything lies in a workspace: pure functions from ids to paths, relative to the
workspace and with `/`. No other module writes such a path.
"""

CATALOG, FUNDUS, MODELS, EXPLANATIONS, TABLES, REPORT = (
    "catalog",
    "fundus",
    "models",
    "explanations",
    "tables",
    "report",
)
# A folder with any of these in it is a workspace.
FOLDERS = {CATALOG, FUNDUS, MODELS, EXPLANATIONS, TABLES, REPORT}
# Tables of one file each, which are replaced as a whole.
CATALOGUE_TABLES = ("photos", "rejects", "sources", "unused_masks")
# Small files: the layout's version, and what makes a model and an explanation count.
FORMAT, MODEL_RECORD, EXPLANATION_RECORD = "workspace.json", "model.json", "explanation.json"
VIEWS, VIEWS_DATABASE = "catalog.sql", "catalog.duckdb"
# How the folders of comparisons begin, among those of reports.
COMPARISONS = "compare-"
LOCKS, SCRATCH = ".locks", ".scratch"
# Which of Prefect's runs held the lock last.
LAST_HOLDER = f"{LOCKS}/run.prefect.json"


def catalogue_path(table: str) -> str:
    """The file of a catalogue's table."""
    return f"{CATALOG}/{table}.parquet"


def fundus_path(preprocess_id: str) -> str:
    """Where a preprocessing's store lies.

    >>> fundus_path("0123456789ab")
    'fundus/0123456789ab.zarr'
    """
    return f"{FUNDUS}/{preprocess_id}.zarr"


def model_path(model_id: str, name: str = "") -> str:
    """The folder of a model, or a file in it.

    >>> model_path("0123456789ab", MODEL_RECORD)
    'models/0123456789ab/model.json'
    """
    return f"{MODELS}/{model_id}/{name}".removesuffix("/")


def explanation_path(explain_id: str, name: str = "") -> str:
    """The folder of an explanation, or what lies in it under a name."""
    return f"{EXPLANATIONS}/{explain_id}/{name}".removesuffix("/")


def attributions_path(explain_id: str) -> str:
    """Where an explanation's arrays lie.

    >>> attributions_path("0123456789ab")
    'explanations/0123456789ab/attributions.zarr'
    """
    return explanation_path(explain_id, "attributions.zarr")


def counterfactuals_path(explain_id: str, pair: str) -> str:
    """Where the changed images of a pair of stages lie, beside the attributions.

    >>> counterfactuals_path("0123456789ab", "1-0-1")
    'explanations/0123456789ab/counterfactuals-1-0-1.zarr'
    """
    return explanation_path(explain_id, f"counterfactuals-{pair}.zarr")


def ledger_folder(path: str) -> str:
    """Where the ledger of a store lies: beside it.

    >>> ledger_folder(fundus_path("0123456789ab")), ledger_folder(attributions_path("0123456789ab"))
    ('fundus/0123456789ab.ledger', 'explanations/0123456789ab/ledger')
    """
    folder, _, name = path.rpartition("/")
    return (
        f"{folder}/ledger"
        if name == "attributions.zarr"
        else f"{path.removesuffix('.zarr')}.ledger"
    )


def table_folder(table: str, key: str | None = None, partition: str = "") -> str:
    """The folder of a table's parts, or of those of one partition.

    >>> table_folder("predictions", "model_id", "0123456789ab")
    'tables/predictions/model_id=0123456789ab'
    """
    return f"{TABLES}/{table}" if key is None else f"{TABLES}/{table}/{key}={partition}"


def report_path(explain_id: str) -> str:
    """The folder of an explanation's report."""
    return f"{REPORT}/{explain_id}"


def comparison_path(first: str, second: str) -> str:
    """The folder of a comparison's page: of two explanations, or of two models.

    >>> comparison_path("0123456789ab", "ba9876543210")
    'report/compare-0123456789ab-ba9876543210'
    """
    return f"{REPORT}/{COMPARISONS}{first}-{second}"


def lock_path(name: str) -> str:
    """The file by which a lock is held."""
    return f"{LOCKS}/{name}.lock"
