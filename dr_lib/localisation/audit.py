"""Do maps deserve belief? Tests of the maps of an eye that ask the network again.

- Insertion and deletion (Petsiuk et al., BMVC 2018): the answer must come with a map's strongest
  pixels and go with them, sooner than with those of a random map or of the photograph's contrast.
- Randomised weights (Adebayo et al., NeurIPS 2018): the map must not outlive what the network has
  learnt. Weights are replaced by fresh ones from the dense layers down.
- Stability: noise, a turned disc and another compression are no news; the map must not change.
- Places without lesions: a map has no business there.

The first and the last judge the maps of the explanation. The other two need many maps of one eye:
that of the predicted stage on pixels with few points, and the lesion map of two poses, each against
its like.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Interval

from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.integrated import integrated_gradients
from dr_lib.attribution.quantities import stage_quantities
from dr_lib.localisation.audit_measures import (
    LIKENESS,
    QUARTER_TURN,
    Fundus,
    Map,
    Place,
    disturbed,
    likeness,
    masked,
    masking_areas,
    no_lesion_places,
)
from dr_lib.localisation.baseline_maps import local_contrast
from dr_lib.localisation.masks import retina_seen
from dr_lib.localisation.scores import Score
from dr_lib.maps.lesion_map import LesionMapper, unposed
from dr_lib.maps.regions import smoothed
from dr_lib.network import backend
from dr_lib.network.graph import calls
from dr_lib.network.layers import logits_model
from dr_lib.network.model import scaled
from dr_lib.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Settings

if TYPE_CHECKING:
    import keras

CUTS = 3  # layers above which weights are replaced; in the end those of the whole network are
LESION_POSES, LESION_POINTS = 2, 2
# By source and metric. The source is a map, as in the table `evaluation`, or "grade" for what is
# asked of the grade itself.
Scores = dict[tuple[str, str], Score]


@dataclass(frozen=True)
class AuditParams(Settings):
    """eyes: how many explained eyes are audited (0: none). points: of the maps that are compared
    with each other, by the midpoint rule. steps: of the insertion and deletion curves.
    smoothing_px: Gaussian σ of every map. resamples: of patients, for the intervals.
    """

    eyes: Annotated[NonNegativeInt, "0: none"] = 32
    points: PositiveInt = 16
    steps: Annotated[int, Interval(ge=2)] = 7
    smoothing_px: NonNegativeFloat = 1.0
    resamples: PositiveInt = 1000


class Auditor:
    """Audits any number of eyes with one model; keeps its compiled functions, so reuse it.

    model: its weights are replaced and put back to the bit, so nobody else may use it. untrained:
    the same architecture with fresh weights. crop: of the fundi.
    """

    def __init__(
        self,
        model: "keras.Model",
        untrained: "keras.Model",
        params: AuditParams,
        batch_size: int,
        *,
        crop: float,
    ) -> None:
        self.params, self.crop, self._batch_size = params, crop, batch_size
        self._model, self._logits = model, logits_model(model)
        self._trained, self._fresh = (
            {layer.name: layer.get_weights() for layer in net.layers} for net in (model, untrained)
        )
        self._engines: dict[str, tuple[Evaluator, LesionMapper]] = {}

    def audit(self, fundus: Fundus, stage: int, maps: Mapping[str, Map]) -> Scores:
        """Every measure of an eye, the same whichever eyes came before.

        Parameters
        ----------
        stage : the predicted one
        maps : of the explanation, by source
        """
        inside = retina_seen(fundus, crop=self.crop)
        random = np.random.default_rng(zlib.crc32(fundus.tobytes()))
        scores = self._explained_maps(fundus, stage, inside, maps, random)
        before, grade = self._maps(fundus, stage), self._answers(fundus[None]).argmax()

        def compare(test: str, after: Mapping[str, Map]) -> None:
            for source, now in after.items():
                for name, alike in likeness(before[source], now, inside).items():
                    scores[source, test + name] = Score(alike, LIKENESS[name])

        for name, changed in disturbed(fundus, inside, random).items():
            after = self._maps(changed, stage)
            if name == "turn":
                after = {source: unposed(of[None], QUARTER_TURN)[0] for source, of in after.items()}
            compare(f"stable_{name}", after)
            same = float(self._answers(changed[None]).argmax() == grade)
            scores["grade", f"stable_{name}"] = Score(same, np.nan)
        try:
            for level, layers in randomised_layers(self._model).items():
                self._replace_weights(layers)
                compare(f"randomised_{level}", self._maps(fundus, stage, level))
        finally:
            self._replace_weights(())
        return scores

    def _explained_maps(
        self,
        fundus: Fundus,
        stage: int,
        inside: Place,
        maps: Mapping[str, Map],
        random: np.random.Generator,
    ) -> Scores:
        """Insertion, deletion and places of one eye's maps, and of the contrast.

        Maps are judged by the predicted stage's probability, the lesion map by that of referable
        disease.
        """
        quantities = stage_quantities((f"stage{stage}", "referable"))
        x = scaled(fundus) * inside[..., None]
        shares = np.linspace(0, 1, self.params.steps + 1) ** 2  # dense where few pixels are shown
        ends = quantities.values(self._answers(np.stack([np.zeros_like(x), x])))
        places, scores, areas = no_lesion_places(fundus, crop=self.crop), {}, {}
        references = {"random": random.random(inside.shape), "contrast": local_contrast(fundus)}
        for source, values in (references | {**maps}).items():
            values = smoothed(values, self.params.smoothing_px)
            shown = self._answers(masked(x, values, inside, shares[1:-1]))
            areas[source] = masking_areas(quantities.values(shown), *ends, shares)
            size = np.abs(values)
            for name, place in places.items() if source != "random" and size.any() else ():
                share = float(size[place].sum() / size.sum())
                scores[source, f"share_{name}"] = Score(share, float(place.mean()))
        for source in ("contrast", *maps):
            judge = int(source == "lesion")
            for row, (test, sign) in enumerate({"insertion": 1, "deletion": -1}.items()):
                area = {name: float(of[row, judge]) for name, of in areas.items()}
                scores[source, test] = Score(area[source], area["random"])
                for other in [name for name in references if name != source]:
                    gain = sign * (area[source] - area[other])
                    scores[source, f"{test}_{other}"] = Score(gain, 0.0)
        return scores

    def _maps(self, fundus: Fundus, stage: int, level: str = "") -> dict[str, Map]:
        """The maps that are compared with each other, smoothed: on pixels, and of lesions."""
        evaluator, lesions = self._engine(level)
        x, points = scaled(fundus[None]), self.params.points
        quantities = stage_quantities((f"stage{stage}",))
        explained = integrated_gradients(
            evaluator, x, np.zeros_like(x[0]), points=points, quantities=quantities
        )
        maps = {
            "pixels": explained.values[0, 0].sum(axis=-1),
            "lesion": lesions.maps(fundus[None])[0],
        }
        return {name: smoothed(of, self.params.smoothing_px) for name, of in maps.items()}

    def _answers(self, images: np.ndarray) -> np.ndarray:
        """The trained network's logits for fundi, or for scaled images."""
        x = scaled(images) if images.dtype == np.uint8 else images
        return self._engine("")[0].values(x)

    def _engine(self, level: str) -> tuple[Evaluator, LesionMapper]:
        """The compiled functions for the weights of a level."""
        level = level if backend.compiles_weights() else ""
        if level not in self._engines:
            net, size = self._logits, self._batch_size
            lesions = LesionMapper(net, poses=LESION_POSES, points=LESION_POINTS, batch_size=size)
            self._engines[level] = Evaluator(lambda x: net(x, training=False), size), lesions
        return self._engines[level]

    def _replace_weights(self, fresh: Sequence[str]) -> None:
        """Gives the layers of these names fresh weights, and all others what they had learnt."""
        for layer in self._model.layers:
            layer.set_weights((self._fresh if layer.name in fresh else self._trained)[layer.name])


def randomised_layers(model: "keras.Model") -> dict[str, list[str]]:
    """The names of the layers that are given fresh weights, level by level from the top down: all
    above the last features, above a block in the middle, above the stem, and all.
    """
    names = [layer.name for layer, _, _ in calls(model)]  # what lies above a cut comes after it
    cuts = [name for name in names if re.fullmatch(r"stem|mixed\d+|pooled", name)][::-1]
    chosen = [cuts[place] for place in np.linspace(0, len(cuts) - 1, CUTS).round().astype(int)]
    above = {f"above_{cut}": names[names.index(cut) + 1 :] for cut in chosen}
    return above | {"everything": names}
