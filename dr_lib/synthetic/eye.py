"""A synthetic eye: from its plan to its photograph, its mask and the truth about both; and what a
camera makes of a retina: size, frame, light, rim, borders, sharpness and noise.

There are eight makes of camera, of which half cut the disc at top and bottom. A make fixes the
frame; each patient and each photograph has its own exposure and light.
"""

import pathlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.synthetic.anatomy import Landmarks, draw_landmarks, draw_vessels
from dr_lib.synthetic.canvas import LABELS, MARGIN, Canvas, Patch, Skin, noise, rotated
from dr_lib.synthetic.lesions import MASK_COLOURS, Spot, spots_of_stage
from dr_lib.synthetic.painting import paint
from dr_lib.synthetic.planning import EyePlan, SynthesisParams, stream

WORK_RADIUS_PX = 430  # at most: painting costs as its square, and no lesion needs more


@dataclass(frozen=True)
class Camera:
    """A make of camera.

    size: width between the data set's smallest (0) and largest (1), on a logarithmic scale.
    aspect: width over height.
    fill: the disc's diameter over the frame's height (above 1: cut at top and bottom).
    tone: colour of an average retina, 0…1 RGB.
    rim: colour of the light that leaks in at the disc's edge, 0…1 RGB.
    notch, notch_degrees: corners of the marker at the rim, in retina radii outward from the centre
        and along the rim (none: no marker), and its direction, clockwise from the right.
    border: grey level outside the disc, 0…255.
    blur: sigma in retina radii. grain: sigma of the noise in grey levels.
    share: how often patients are photographed with it.
    """

    name: str
    size: float
    aspect: float
    fill: float
    tone: Sequence[float]
    rim: Sequence[float]
    notch: Sequence[Sequence[float]]
    notch_degrees: float
    border: float
    blur: float
    grain: float
    share: float


CAMERAS = tuple(
    Camera(name, **values)
    for name, values in tomllib.loads(
        pathlib.Path(__file__).with_name("cameras.toml").read_text("utf-8")
    ).items()
)


@dataclass(frozen=True)
class Shot:
    """A photograph's geometry: the frame, and the smaller work frame on which the retina is
    painted; (work_x, work_y) is the patch's centre in it.

    Pixel centres are whole numbers; `scale` is photograph pixels per work pixel.
    """

    camera: Camera
    height: int
    width: int
    work_height: int
    work_width: int
    patch: Patch
    work_x: int
    work_y: int

    @property
    def scale(self) -> float:
        return self.width / self.work_width

    @property
    def top(self) -> float:
        """First visible y of the retina, in its own coordinates."""
        return max(-1.0, -self.work_y / self.patch.radius)

    @property
    def bottom(self) -> float:
        """Last visible y of the retina."""
        return min(1.0, (self.work_height - 1 - self.work_y) / self.patch.radius)

    def framed(
        self, picture: np.ndarray, border: Sequence[float], interpolation: int
    ) -> np.ndarray:
        """A picture of the patch laid in the frame, cut where the frame ends, at the photograph's
        size.
        """
        top, left = self.work_y - self.patch.half, self.work_x - self.patch.half
        work = cv2.warpAffine(
            picture,
            np.array([[1.0, 0, left], [0, 1, top]]),
            (self.work_width, self.work_height),
            flags=cv2.INTER_NEAREST,
            borderValue=border,
        )
        return cv2.resize(work, (self.width, self.height), interpolation=interpolation)


def choose_camera(rng: np.random.Generator) -> Camera:
    """Draws a make of camera, each as often as its share says."""
    shares = np.array([camera.share for camera in CAMERAS])
    return CAMERAS[int(rng.choice(len(CAMERAS), p=shares / shares.sum()))]


def frame(camera: Camera, params: SynthesisParams, rng: np.random.Generator) -> Shot:
    """Places the retina in a camera's frame, a little off the middle."""
    width = round(params.smallest_px * (params.largest_px / params.smallest_px) ** camera.size)
    height = round(width / camera.aspect)
    diameter = min(camera.fill * height, 0.97 * width)
    shrink = min(1.0, 2 * WORK_RADIUS_PX / diameter)
    work_width, work_height = round(width * shrink), round(height * shrink)
    radius = 0.5 * diameter * work_width / width
    room_x, room_y = (max(0.0, side / 2 - radius - 2) for side in (work_width, work_height))
    shift_x = float(np.clip(rng.normal(0, 0.02) * work_width, -0.7 * room_x, 0.7 * room_x))
    shift_y = (
        rng.normal(0, 0.012) * work_height if camera.fill > 1 else rng.uniform(-0.7, 0.7) * room_y
    )
    return Shot(
        camera=camera,
        height=height,
        width=width,
        work_height=work_height,
        work_width=work_width,
        patch=Patch(radius),
        work_x=round((work_width - 1) / 2 + shift_x),
        work_y=round((work_height - 1) / 2 + shift_y),
    )


def expose(
    retina: Float32[np.ndarray, "side side 3"],
    shot: Shot,
    exposure: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "height width 3"]:
    """The photograph (RGB): the retina under uneven light, in its frame, at the camera's size,
    blurred and noisy.
    """
    camera, patch = shot.camera, shot.patch
    # Light changes slowly: a coarse grid on the patch is enough.
    axis, side = np.linspace(-MARGIN, MARGIN, 160, dtype=np.float32), (patch.side, patch.side)
    x, y = axis[None, :], axis[:, None]
    lit = cv2.multiply(retina, cv2.resize(_light(x, y, exposure, rng), side))
    lit = cv2.add(lit, cv2.resize(_rim_light(x, y, camera.rim, exposure, rng), side))
    sigma = max(0.45, patch.radius * camera.blur * rng.uniform(0.75, 1.5))
    picture = cv2.convertScaleAbs(cv2.GaussianBlur(lit, (0, 0), sigma), alpha=255.0)
    opening = _opening(patch, camera)
    border = np.array([1.0, 0.9, 0.85]) * camera.border
    # Alpha blend in 8 bits: picture · opening + border · (1 − opening).
    shut = [cv2.convertScaleAbs(255 - opening, alpha=float(level) / 255) for level in border]
    seen = cv2.multiply(picture, cv2.merge([opening] * 3), scale=1 / 255)
    photo = shot.framed(cv2.add(seen, cv2.merge(shut)), np.round(border).tolist(), cv2.INTER_CUBIC)
    return _grain(photo, camera.grain * rng.uniform(0.8, 1.4), rng)


def visible(patch: Patch) -> UInt8[np.ndarray, "side side"]:
    """1 where the retina is visible: the disc without its soft edge and without the notch."""
    disc = np.zeros((patch.side, patch.side), np.uint8)
    return cv2.circle(disc, (patch.half, patch.half), int(patch.radius) - 2, 1, -1)


def _light(x: np.ndarray, y: np.ndarray, exposure: float, rng: np.random.Generator) -> np.ndarray:
    """Vignette, a tilt of the light and slow shadows; the channels differ a little."""
    centre_x, centre_y = rng.normal(0, 0.16, 2)
    distance = (x - centre_x) ** 2 + (y - centre_y) ** 2
    direction = rng.uniform(0, 2 * np.pi)
    tilt = rng.uniform(0, 0.22) * (x * np.cos(direction) + y * np.sin(direction))
    shadows = 0.06 * noise(rng, 4, x.shape[1])
    falloff = rng.uniform(0.15, 0.5)
    light = exposure * (1.12 - falloff * distance + tilt + shadows)
    light = cv2.merge([light, light * (1 - 0.1 * distance), light * (1 - 0.05 * distance)])
    return np.maximum(light, 0.02).astype(np.float32)


def _rim_light(
    x: np.ndarray,
    y: np.ndarray,
    colour: Sequence[float],
    exposure: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """The haze of lids and iris along the edge, strongest on one side."""
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    lobe = (0.5 + 0.5 * np.cos(angle - rng.uniform(0, 2 * np.pi))) ** rng.uniform(0.6, 4.0)
    haze = exposure * 0.95 * rng.beta(1.0, 2.3) * (0.25 + 0.75 * lobe)
    haze = haze * np.exp(-np.maximum(0, 1.02 - distance) / rng.uniform(0.05, 0.16))
    veil = exposure * rng.uniform(0.0, 0.035)
    light = cv2.merge([(haze + veil) * np.float32(channel) for channel in colour])
    return light.astype(np.float32)


def _opening(patch: Patch, camera: Camera) -> UInt8[np.ndarray, "side side"]:
    """The camera's stop: the disc with its marker, 255 inside, an edge of a few pixels."""
    opening = np.zeros((patch.side, patch.side), np.uint8)
    centre, radius = patch.half * 16, patch.radius * 16
    cv2.circle(opening, (centre, centre), round(radius), 255, -1, cv2.LINE_AA, 4)
    if camera.notch:
        out, along = np.transpose(camera.notch)
        corners = rotated(out, along, np.deg2rad(camera.notch_degrees), 0.0, 0.0)
        corners = np.round(centre + radius * corners).astype(np.int32)
        cv2.fillPoly(opening, [corners], 255.0, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(opening, (0, 0), max(0.6, 0.004 * patch.radius))


def _grain(picture: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Adds sensor noise, of which half is in grains of a few pixels, as a camera's own denoising
    leaves it.

    The same 384 px tile, laid many times: noise for every pixel of the largest frame would cost
    more than all the rest.
    """
    fine, coarse = (rng.standard_normal((384, 384, 3), dtype=np.float32) for _ in range(2))
    coarse = cv2.GaussianBlur(coarse, (0, 0), 1.2)
    tile = np.clip(np.round(sigma * (0.7 * fine + 2.2 * coarse)), -100, 100).astype(np.int16)
    height, width = picture.shape[:2]
    grain = np.tile(tile, (-(-height // 384), -(-width // 384), 1))[:height, :width]
    return cv2.add(picture, grain, dtype=cv2.CV_8U)


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


def _skin(camera: Camera, rng: np.random.Generator) -> Skin:
    """A patient's retina as this camera renders it: darker and redder, or paler with the choroid
    showing through.
    """
    # Green and blue go together: apart, they make violet and olive eyes.
    yellow = rng.normal(0, 0.06)
    factors = 1.0 + np.array([rng.normal(0, 0.05), yellow, 1.3 * yellow + rng.normal(0, 0.07)])
    return Skin(
        colour=np.clip(np.array(camera.tone) * factors, 0.05, 0.95),
        mottling=rng.uniform(0.05, 0.11),
        choroid=rng.uniform(0.1, 0.24) if rng.random() < 0.35 else 0.0,
        macula=rng.uniform(0.45, 0.85),
    )
