"""A fundus photograph as a formula: the same eye can be drawn at any size, place, angle and
tone, without resampling.
"""

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Eye:
    """A retina `diameter` px across at (`centre_y`, `centre_x`) in a frame of `height` × `width`
    px; `aspect` times as high as wide.
    """

    height: int = 600
    width: int = 800
    centre_y: float = 299.5
    centre_x: float = 399.5
    diameter: float = 520.0
    angle: float = 0.0  # degrees
    texture: float = 12.0  # grey levels
    tone: tuple[float, float, float] = (180.0, 110.0, 60.0)
    border: float = 0.0
    aspect: float = 1.0
    shade: float = 0.25  # how much darker the rim is than the middle

    def draw(self) -> np.ndarray:
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        v = (y - self.centre_y) / (self.aspect * self.diameter / 2)
        u = (x - self.centre_x) / (self.diameter / 2)
        cosine, sine = (
            math.cos(math.radians(self.angle)),
            math.sin(math.radians(self.angle)),
        )  # Python's floats keep float32
        u, v = u * cosine + v * sine, v * cosine - u * sine
        distance = np.hypot(u, v)
        # Waves of a tenth to a fortieth of the diameter: lesions and vessels, far above the pixels'
        # own grain.
        pattern = (
            np.sin(20 * u + 3 * np.sin(4 * v))
            + np.sin(31 * v + 2 * np.sin(5 * u))
            + 0.5 * np.sin(45 * (u + 0.6 * v))
        )
        light = 1 - self.shade * distance**2
        inside = np.clip((1 - distance) * self.diameter / 2 + 0.5, 0, 1)[..., None]
        retina = np.stack(
            [tone * light + self.texture * pattern * tone / 180 for tone in self.tone], axis=-1
        )
        return np.clip(np.rint(self.border + inside * (retina - self.border)), 0, 255).astype(
            np.uint8
        )

    def but(self, **changes) -> "Eye":
        return replace(self, **changes)
