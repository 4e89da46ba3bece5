"""The lesion map: where a network's evidence lies, made to find lesions rather than to be complete.

Plain integrated gradients on pixels (METHOD §4) have two faults as a map of lesions. Their signs
cancel: within a lesion one colour speaks for disease and another against it, and so do its rim and
its middle. And a network's gradient is rough at the scale of its strides. So the absolute
attributions of the three colours are added up, and averaged over eight poses of the eye (quarter
turns, mirrored or not), in each of which the strides fall elsewhere. What is attributed is the
log-odds of any disease against none, whose gradient does not die where the probability saturates.

docs/localisation.md has the measurements behind these choices, and what else was tried.
"""

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.attribution.evaluator import Evaluator, Path
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.refinement import unchecked_refinement
from dr_lib.evaluation.grading import posed
from dr_lib.network.model import scaled

if TYPE_CHECKING:
    import keras

QUANTITY = "disease"  # log-odds of stages 1 to 4 against stage 0


class LesionMapper:
    """Makes the lesion maps of one network; keeps its compiled functions, so reuse it.

    logits: the network without its softmax. poses: 1, 2, 4 or 8, as in `dr_lib.evaluation.grading`.
    points: of the midpoint rule, in each pose: few are enough, since the poses average their error
    away.
    """

    def __init__(self, logits: "keras.Model", *, poses: int, points: int, batch_size: int) -> None:
        self.poses = range(0, 8, 2) if poses == 4 else range(poses)
        self.rule = quadrature("midpoint", points)

        def log_odds(x: Any) -> Any:
            from keras import ops

            u = logits(x, training=False)
            return ops.logsumexp(u[:, 1:], axis=1) - u[:, 0]

        self.disease = Evaluator(log_odds, batch_size)

    def maps(self, pixels: UInt8[np.ndarray, "image y x 3"]) -> Float32[np.ndarray, "image y x"]:
        """One map an eye, 0 or above, in units of log-odds a pixel: larger where a lesion is
        likelier.

        NaN where the network's answer is. A turned or mirrored eye has the turned or mirrored map
        if there are eight poses.
        """
        maps = np.empty((len(self.poses), *pixels.shape[:3]), np.float32)
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
        for path in self.disease.run(paths):
            number, pose = path.key
            strength = np.abs(path.sum[0] * path.difference).sum(axis=-1)
            maps[self.poses.index(pose), number] = unposed(strength[np.newaxis], pose)[0]
        return maps.mean(axis=0, dtype=np.float64).astype(np.float32)


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
