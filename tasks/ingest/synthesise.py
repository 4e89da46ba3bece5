"""A synthetic data set in Kaggle's layout: photographs, labels and lesion masks, drawn in parallel,
resumable.

    FOLDER/trainLabels.csv            image,level
    FOLDER/train/<id>.jpeg            photographs
    FOLDER/masks/<id>.png             one mask a photograph, a colour a lesion type
    FOLDER/synthesis.json             what was asked for; a folder never mixes two sets

Every file is written whole or not at all, so an interrupted run leaves whole files only and the
next one draws what is missing.
"""

import functools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import cv2

from dr_lib.drawing.figures import jpeg
from dr_lib.synthetic import EyePlan, SynthesisParams, draw, plan
from storage.files.files import write_whole
from tasks.run.errors import UserError
from tasks.run.progress import progress

RECORD = "synthesis.json"
EYES_PER_JOB = 8


def synthesise(
    folder: str | os.PathLike, count: int, params: SynthesisParams, *, workers: int = 0
) -> int:
    """Draws the set; returns how many photographs were new. Raises UserError if the folder holds
    a different set.
    """
    folder = pathlib.Path(folder)
    asked = {"count": count, **asdict(params)}
    record = folder / RECORD
    if record.exists():
        known = json.loads(record.read_text())
        if known | asked != known:
            raise UserError(
                f"{folder} holds a set drawn with other settings (see {RECORD}); give another"
                " folder or delete this one"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no synthetic set; give a new folder")
    eyes = plan(count, params)
    for name in ("train", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_whole(record, json.dumps(asked, indent=1).encode())
    missing = [eye for eye in eyes if not all(path.exists() for path in _files(folder, eye))]
    jobs = [missing[start : start + EYES_PER_JOB] for start in range(0, len(missing), EYES_PER_JOB)]
    if jobs:
        # Spawned, not forked: a fork copies the locks of threads that it does not have.
        workers_apart = ProcessPoolExecutor(
            workers or os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
        )
        draw_eyes = functools.partial(_draw_eyes, folder, params)
        with workers_apart as pool, progress("synthesise", len(missing)) as advance:
            # Ctrl-C ends the run, not one job of it: what `map` has not begun it cancels then.
            for drawn in pool.map(draw_eyes, jobs):
                advance(drawn)
    lines = ["image,level", *(f"{eye.image_id},{eye.stage}" for eye in eyes), ""]
    write_whole(folder / "trainLabels.csv", "\n".join(lines).encode())
    return len(missing)


def _draw_eyes(folder: pathlib.Path, params: SynthesisParams, eyes: Sequence[EyePlan]) -> int:
    cv2.setNumThreads(1)
    for eye in eyes:
        drawn = draw(eye, params)
        photo, mask = _files(folder, eye)
        write_whole(mask, cv2.imencode(".png", drawn.mask[:, :, ::-1])[1].tobytes())
        write_whole(photo, jpeg(drawn.photo, drawn.quality))
    return len(eyes)


def _files(folder: pathlib.Path, eye: EyePlan) -> tuple[pathlib.Path, pathlib.Path]:
    """Where an eye's photograph lies, and its mask."""
    return folder / "train" / f"{eye.image_id}.jpeg", folder / "masks" / f"{eye.image_id}.png"
