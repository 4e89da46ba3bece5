"""Does the model read the stage off the camera? `cameras.py WORKSPACE [--eyes N]`

A workspace of several sources with a trained model; it is only read. Two tables, of held-out eyes
(test and external) and P(stage ≥ 2):

- pairs: the AUC of the referable eyes of one source (row) against the healthy and mild ones of
  another (column). Off the diagonal the camera differs with the stage: where the model went by the
  camera, these would fall far below, or rise above, those on it.
- looks: the same eyes turned, as another camera might show them (dr_lib.training.augment), and with
  equalised colours: how far the AUC and the answers move.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from dr_lib.network import backend
from dr_lib.network.model import probabilities
from dr_lib.training.augment import augmented, equalised
from dr_lib.vocabulary import PROBABILITIES, REFERABLE
from storage import open_workspace
from storage.contents.models import load_record
from tasks.access.stores import fundus_store
from tasks.execution.worker import loaded_model

FEWEST = 5  # eyes of either kind
LOOKS = {
    "turned": lambda pixels: augmented(pixels, (0,)),
    "turned, another camera": lambda pixels: augmented(pixels, (0,), other_cameras=1.0),
    "colours equalised": lambda pixels: np.stack([equalised(image) for image in pixels]),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--eyes", type=int, default=60, help="of a source for the second table")
    options = parser.parse_args(arguments)
    workspace = open_workspace(options.workspace)
    model_id = workspace.latest_model()
    if model_id is None:
        sys.exit(f"cameras.py: {options.workspace} has no model; run dr train")
    eyes = workspace.frame("predictions", model_id=model_id)
    eyes = eyes[eyes["split"].isin(["test", "external"]) & eyes["stage"].notna()]
    eyes = eyes.assign(
        referable=eyes["stage"] >= REFERABLE, answer=eyes[PROBABILITIES[REFERABLE:]].sum(axis=1)
    )
    print(pairs(eyes).to_string(float_format="{:.3f}".format, na_rep="–"), flush=True)
    print(looks(options.workspace, model_id, eyes, options.eyes).to_string(index=False))
    return 0


def auc(referable: pd.Series, healthy: pd.Series) -> float:
    """Of two groups' answers; NaN where one is too small."""
    if min(len(referable), len(healthy)) < FEWEST:
        return np.nan
    truth = np.repeat([1, 0], [len(referable), len(healthy)])
    return roc_auc_score(truth, np.concatenate([referable, healthy]))


def pairs(eyes: pd.DataFrame) -> pd.DataFrame:
    """AUC of the referable eyes of a row's source against the others of a column's source."""
    answers = {key: part["answer"] for key, part in eyes.groupby(["source", "referable"])}
    none = pd.Series(dtype=float)
    names = sorted(eyes["source"].unique())
    cells = [
        [
            auc(answers.get((row, True), none), answers.get((column, False), none))
            for column in names
        ]
        for row in names
    ]
    return pd.DataFrame(cells, pd.Index(names, name="referable of \\ others of"), names)


def looks(place: Path, model_id: str, eyes: pd.DataFrame, most: int) -> pd.DataFrame:
    """What each look changes, source by source."""
    workspace = open_workspace(place)
    store = fundus_store(workspace, load_record(workspace.files, model_id).preprocess_id)
    model = loaded_model(str(place), model_id)
    position = workspace.photos().set_index("image_id")["position"]
    rows = []
    for source, part in eyes.groupby("source"):
        # Both kinds of eye as evenly as there are.
        chosen = part.groupby("referable").head(most // 2)
        pixels = store.read_rows(position[chosen["image_id"]].to_numpy(), ["pixels"])["pixels"]
        for name, look in LOOKS.items():
            answer = probabilities(model, look(pixels))[:, REFERABLE:].sum(axis=1)
            after = chosen.assign(answer=answer)
            before, now = (
                auc(
                    frame.loc[frame["referable"], "answer"],
                    frame.loc[~frame["referable"], "answer"],
                )
                for frame in (chosen, after)
            )
            moved = answer - chosen["answer"].to_numpy()
            rows.append(
                {
                    "source": source,
                    "look": name,
                    "eyes": len(chosen),
                    "AUC": f"{before:.3f} → {now:.3f}".replace("nan", "–"),
                    "mean move of P": f"{moved.mean():+.3f}",
                    "typical size": f"{np.median(abs(moved)):.3f}",
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    backend.configure()
    sys.exit(main())
