"""Every kind of bad input ends as one row with its reason, every kind that is merely odd as a
fundus; nothing stops the others.
"""

import ast
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.flows.inline import ingest_and_preprocess
from tests.flows.odd_inputs import ACCEPTED, EYE, KINDS, PLAIN, about, id_of, lay_out
from tests.storage.small import photo_source

BAD = [kind for kind in KINDS if kind.outcome != ACCEPTED]
ODD = [kind for kind in KINDS if kind.outcome == ACCEPTED]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """All kinds at once through ingest and preprocessing."""
    root = tmp_path_factory.mktemp("odd")
    forbidden = next(id_of(kind) for kind in KINDS if kind.outcome == "unreadable")
    access = (
        os.access
    )  # the tests may run as root, whom no permission stops; another test asks the system itself
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: forbidden not in str(path) and access(path, mode)
        )
        session, _ = ingest_and_preprocess(
            patch, root / "workspace", photos=str(lay_out(root / "photos")), max_reject_fraction=1.0
        )
    return session.workspace


@pytest.mark.parametrize("kind", BAD, ids=lambda kind: kind.name)
def test_a_bad_input_is_one_row_that_says_why(outcome, kind):
    rejects = outcome.rejects()
    mine = [about(kind, f"{row.image_id} {row.path} {row.detail}") for row in rejects.itertuples()]
    if kind.outcome in (
        "duplicate_content",
        "duplicate_id",
    ):  # these name another photograph, and it may be named by them
        mine = (rejects["reason"] == kind.outcome).tolist()
    rows = rejects[mine]
    assert list(zip(rows["step"], rows["reason"], strict=True)) == [(kind.step, kind.outcome)]
    assert kind.detail in rows["detail"].iloc[0]
    assert rows["detail"].iloc[0]


def test_there_is_no_row_for_anything_else(outcome):
    assert len(outcome.rejects()) == len(BAD)


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.name)
def test_an_odd_input_becomes_the_same_fundus_as_a_plain_one(outcome, kind):
    fundus = outcome.fundus()
    row, plain = fundus.sel(image_id=id_of(kind)), fundus.sel(image_id="100_left")
    assert int(row["status"]) == 1
    assert float(row["diameter"]) == pytest.approx(EYE.diameter, rel=0.02)
    photo = outcome.frame("photos", image_id=id_of(kind)).iloc[0]
    assert (photo["height_px"], photo["width_px"]) == (EYE.height, EYE.width), "upright"
    if kind.name.startswith("grey"):
        assert np.array_equal(row["pixels"][..., 0], row["pixels"][..., 1])
        row, plain = row["pixels"].mean("channel"), plain["pixels"].mean("channel")
    else:
        row, plain = row["pixels"].astype(float), plain["pixels"].astype(float)
    # Compression's artefacts, four times amplified, and CMYK's coarser tones. Upside down, they
    # would differ by 13.
    assert float(abs(row - plain).mean()) < 5


def test_what_the_system_forbids_to_read_is_unreadable():
    """Asked as a user with no rights, in a process of its own if this one has all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "train").mkdir()
        for image_id in ("10_left", "11_left"):
            (folder / "train" / f"{image_id}.jpeg").write_bytes(PLAIN)
        (folder / "train" / "11_left.jpeg").chmod(0)
        (folder / "closed").mkdir(mode=0)
        found = _as_nobody(
            lambda: [(p.path, p.reason, p.detail) for p in photo_source(folder).problems()]
        )
        (folder / "closed").chmod(0o755)
    assert found == [
        ("closed", "unreadable", "the folder cannot be listed: Permission denied"),
        ("train/11_left.jpeg", "unreadable", "no permission to read it"),
    ]


def _as_nobody(question):
    """What a function returns (as its literal) in a process without a superuser's rights."""
    if os.geteuid() != 0:
        return question()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries with threads, which the child does not use
        child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, repr(question()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read().decode()
    os.waitpid(child, 0)
    if not answer:
        pytest.skip("this system lets no process give up its rights")
    return ast.literal_eval(answer)
