"""A synthetic eye: from its plan to its photograph, its mask and the truth about both."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from dr_lib.synthetic.anatomy import Landmarks, draw_landmarks, draw_vessels
from dr_lib.synthetic.camera import Camera, Shot, choose_camera, expose, frame, visible
from dr_lib.synthetic.canvas import LABELS, Canvas, Skin
from dr_lib.synthetic.lesions import MASK_COLOURS, Spot, spots_of_stage
from dr_lib.synthetic.painting import paint
from dr_lib.synthetic.planning import EyePlan, SynthesisParams, stream

QUALITIES = (80, 96)  # of the cameras' JPEG files, from the first to below the second
_PALETTE = np.array([MASK_COLOURS.get(kind, (0, 0, 0)) for kind in LABELS], np.uint8)


@dataclass(frozen=True)
class SyntheticEye:
    """A drawn eye.

    photo: RGB. mask: RGB, `MASK_COLOURS` upon black, only inside the visible retina.
    quality: its JPEG quality, in `QUALITIES`.
    spots, marks: its lesions and landmarks, in the retina's own coordinates.
    shot: where these lie in the photograph, even where the frame cuts the disc.
    """

    photo: UInt8[np.ndarray, "height width 3"]
    mask: UInt8[np.ndarray, "height width 3"]
    quality: int
    spots: tuple[Spot, ...]
    marks: Landmarks
    shot: Shot


def draw(eye: EyePlan, params: SynthesisParams) -> SyntheticEye:
    """The photograph of an eye with its lesion mask: a pure function of its arguments."""
    shared = stream(params.seed, eye.patient, "both", "patient")
    camera = choose_camera(shared)
    skin = _skin(camera, shared)
    exposure = float(np.clip(shared.lognormal(-0.06, 0.24), 0.42, 1.5))
    anatomy, lesion, painting, light = (
        stream(params.seed, eye.patient, eye.eye, concern)
        for concern in ("anatomy", "lesions", "painting", "camera")
    )
    marks = draw_landmarks(anatomy, eye.eye)
    vessels = draw_vessels(anatomy, marks)
    shot = frame(camera, params, light)
    spots = spots_of_stage(eye.stage, lesion, marks, vessels, top=shot.top, bottom=shot.bottom)
    canvas = Canvas(shot.patch, skin, marks, painting)
    paint(canvas, vessels, spots)
    photo = expose(canvas.retina, shot, exposure * float(light.uniform(0.92, 1.08)), light)
    labels = shot.framed(canvas.labels * visible(shot.patch), (0.0,), cv2.INTER_NEAREST)
    quality = int(light.integers(*QUALITIES))
    return SyntheticEye(photo, _PALETTE[labels], quality, tuple(spots), marks, shot)


def jpeg_bytes(photo: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """The photograph as a JPEG file; `quality` 1 to 100."""
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise ValueError(f"OpenCV could not encode a photograph of shape {photo.shape} as JPEG")
    return data.tobytes()


def _skin(camera: Camera, rng: np.random.Generator) -> Skin:
    """A patient's retina as this camera renders it: darker and redder, or paler with the choroid
    showing through.
    """
    # Green and blue go together: apart, they make violet and olive eyes.
    yellow = rng.normal(0, 0.06)
    factors = 1.0 + np.array([rng.normal(0, 0.05), yellow, 1.3 * yellow + rng.normal(0, 0.07)])
    red, green, blue = np.clip(np.array(camera.tone) * factors, 0.05, 0.95).tolist()
    return Skin(
        colour=(red, green, blue),
        mottling=rng.uniform(0.05, 0.11),
        choroid=rng.uniform(0.1, 0.24) if rng.random() < 0.35 else 0.0,
        macula=rng.uniform(0.45, 0.85),
    )
