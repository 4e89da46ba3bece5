"""The steps in their order, each with the sentence its command's help shows. Cheap to import."""

STEPS = {
    "ingest": (
        "Finds the photographs and their labels, and sets aside what cannot be used, with the"
        " reason."
    ),
    "preprocess": "Turns photographs into normalised fundi of one size and tone.",
    "train": "Trains the five-stage classifier with balanced mini-batches and grades it.",
    "attribute": (
        "Explains the chosen images with integrated gradients: outcome to neurons, neurons to"
        " pixels."
    ),
    "aggregate": "Turns attributions into tables: regions, statistics, group heat maps.",
    "counterfactuals": (
        "Makes counterfactuals and adversarial examples of missed eyes, and compares them."
    ),
    "linearity": (
        "Studies how a layer's units and the outcome move together along adversarial examples."
    ),
    "report": "Writes the pages people look at.",
}
PIPELINE = (
    "The whole pipeline, from photographs to report: every step in order. What is done already is"
    " not done again."
)


def flow_name(name: str) -> str:
    """What Prefect calls the flow of a step, or of the whole pipeline (`run`); a server may hold
    other people's flows too.

    >>> flow_name("run"), flow_name("train")
    ('dr-pipeline', 'dr-train')
    """
    return "dr-pipeline" if name == "run" else f"dr-{name}"
