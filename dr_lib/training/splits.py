"""Which patients the network learns from, which choose the checkpoint, and which are kept for the
final grade.

A patient's split is a hash of the patient's id and a seed, never a shuffled list: adding
photographs moves nobody, and both eyes of a patient always stand on the same side (a fellow eye's
stage agrees with kappa 0.85, so that an eye in training would give away its fellow in the test).
"""

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]
# Kaggle's own division of its test labels: the public half ranked while the contest ran, the
# private half at its end.
KAGGLE_USAGE: dict[str, Split] = {"Public": "validation", "Private": "test"}


def split_of(
    patient_id: str, *, seed: int = 0, validation_fraction: float = 0.15, test_fraction: float = 0.2
) -> Split:
    """A patient's split; the same answer whatever other patients there are.

    Parameters
    ----------
    seed: another seed divides the patients anew.
    validation_fraction, test_fraction: of a large set of patients; a single patient falls on the
        test side with probability `test_fraction`.

    Returns
    -------
    "train", "validation" or "test".

    Raises
    ------
    ValueError: when the fractions leave nothing for training.

    >>> [split_of(str(patient)) for patient in (10, 13, 15, 16)]
    ['test', 'validation', 'train', 'validation']
    """
    if validation_fraction < 0 or test_fraction < 0 or validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction} must be 0"
            " or more and together below 1"
        )
    # 64 bits of a keyed hash: uniform on [0, 1) to far below any fraction one would write.
    digest = hashlib.blake2b(
        patient_id.encode(), digest_size=8, key=str(seed).encode()[:64]
    ).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test_fraction:
        return "test"
    if place < test_fraction + validation_fraction:
        return "validation"
    return "train"
