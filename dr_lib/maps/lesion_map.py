"""The lesion map: where a network's evidence lies, made to find lesions rather than to be complete.

Plain integrated gradients on pixels (METHOD §4) have two faults as a map of lesions. Their signs
cancel: within a lesion one colour speaks for disease and another against it, and so do its rim and
its middle. And a network's gradient is rough at the scale of its strides. So the absolute
attributions of the three colours are added up, and averaged over poses of the eye (quarter
turns, mirrored or not), in each of which the strides fall elsewhere, and over the eye as it is and
enlarged, since a network answers other sizes of lesion at another scale. What is attributed is the
log-odds of any disease against none, whose gradient does not die where the probability saturates.

docs/localisation.md has the measurements behind these choices, and what else was tried.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.attribution.evaluator import Evaluator, Path
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.refinement import unchecked_refinement
from dr_lib.evaluation.grading import posed
from dr_lib.network.graph import rebuilt
from dr_lib.network.model import scaled

if TYPE_CHECKING:
    import keras

QUANTITY = "disease"  # log-odds of stages 1 to 4 against stage 0


class LesionMapper:
    """Makes the lesion maps of one network; keeps its compiled functions, so reuse it.

    logits: the network without its softmax. poses: 1, 2, 4 or 8, as in `dr_lib.evaluation.grading`.
    points: of the midpoint rule, in each pose: few are enough, since the poses average their error
    away. enlargement: how many times the fundus is enlarged for the second of the two maps
    that are averaged; 1 for the first alone.
    """

    def __init__(
        self,
        logits: "keras.Model",
        *,
        poses: int,
        points: int,
        batch_size: int,
        enlargement: float = 1.0,
    ) -> None:
        self.poses = range(0, 8, 2) if poses == 4 else range(poses)
        self.rule = quadrature("midpoint", points)
        size = int(logits.inputs[0].shape[1])
        self.disease = {
            side: Evaluator(
                _log_odds(logits if side == size else rebuilt(logits, side)),
                max(1, round(batch_size * (size / side) ** 2)),  # as many pixels in a pass
            )
            for side in {size, round(size * enlargement)}
        }

    def maps(self, pixels: UInt8[np.ndarray, "image y x 3"]) -> Float32[np.ndarray, "image y x"]:
        """One map an eye, 0 or above, in units of log-odds a pixel: larger where a lesion is
        likelier.

        NaN where the network's answer is. A turned or mirrored eye has the turned or mirrored map
        if there are eight poses.
        """
        total = np.zeros(pixels.shape[:3])
        for side, disease in self.disease.items():
            for number, strength in self._strengths(_resized(pixels, side), disease):
                # Enlarged, the same evidence is spread over so many more pixels.
                share = (side / pixels.shape[1]) ** 2 / len(self.poses) / len(self.disease)
                total[number] += _resized(strength[np.newaxis], pixels.shape[1])[0] * share
        return total.astype(np.float32)

    def _strengths(
        self, pixels: UInt8[np.ndarray, "image y x 3"], disease: Evaluator
    ) -> Iterator[tuple[int, Float32[np.ndarray, "y x"]]]:
        """The map of each pose, turned back, with its eye's number."""
        nothing = np.zeros(pixels.shape[1:], np.float32)
        # A line for every pose of every eye, which fill batches together.
        paths = (
            Path(
                (number, pose),
                nothing,
                scaled(posed(pixels[number : number + 1], pose))[0],
                unchecked_refinement(*self.rule),
                basis=1,
                contrasted=False,
            )
            for number, pose in itertools.product(range(len(pixels)), self.poses)
        )
        for path in disease.run(paths):
            number, pose = path.key
            strength = np.abs(path.sum[0] * path.difference).sum(axis=-1)
            yield number, unposed(strength[np.newaxis], pose)[0]


def _log_odds(logits: "keras.Model") -> Callable[[Any], Any]:
    """Any disease against none."""

    def log_odds(x: Any) -> Any:
        from keras import ops

        u = logits(x, training=False)
        return ops.logsumexp(u[:, 1:], axis=1) - u[:, 0]

    return log_odds


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    """Images of a side of so many px: smooth where enlarged, means of areas where shrunk."""
    if images.shape[1] == side:
        return images
    way = cv2.INTER_CUBIC if images.shape[1] < side else cv2.INTER_AREA
    return np.stack([cv2.resize(image, (side, side), interpolation=way) for image in images])


def unposed(
    maps: Float32[np.ndarray, "image y x"], number: int
) -> Float32[np.ndarray, "image y x"]:
    """Maps of pose `number` of 8 (see `dr_lib.evaluation.grading.posed`) turned back to how the
    eyes were.

    >>> eyes = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    >>> all(
    ...     (unposed(posed(eyes, n)[..., 0].astype(np.float32), n) == eyes[..., 0]).all()
    ...     for n in range(8)
    ... )
    True
    """
    turned = np.rot90(maps, -(number // 2), axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if number % 2 else turned)
