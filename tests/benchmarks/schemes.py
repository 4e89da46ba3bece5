"""Which way of choosing points on the line needs the fewest passes: `schemes.py WORKSPACE MEMO_DIR
[--eyes 8]`.

Along the line of each eye the outputs, their derivatives and the gradients' maps are sampled once,
densely, and kept in MEMO_DIR (an eye of 1,024 points costs five minutes of two cores and 0.7 GB;
`--maps 0` needs no maps and takes a third). Schemes then run on these samples as scalar programs,
all on the same curves, in seconds: joined by straight lines between samples, the derivative that of
the nearest. A forward counts 1, a gradient of all outcomes 1 and one for each backward pass (4 for
five probabilities, 5 for five logits).

Fixed rules have no way of knowing when to stop. For them the table holds three readings of "points
enough": the first of a ladder at which the gap happens to hold (each outcome its own), the first
from which on it holds at all longer ones, and that of the worst outcome for all five; as one
outcome a run (2 passes a point).
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dr_lib.attribution import partition, quadrature, stage_quantities
from dr_lib.attribution.evaluator import Commit, Refinement, Request, Values
from dr_lib.attribution.quantities import QuantityMap
from dr_lib.attribution.refinement import RefinementResult, adaptive_refinement
from dr_lib.network import backend
from dr_lib.network.layers import logits_model

LADDER = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TOLERANCE, MOST = 0.05, 256
KINDS = {"probability": ("stage", 0.01), "logit": ("logit", 1e-3)}


class Curve:
    """One eye's line: outputs at the edges of equal cells, derivatives and (perhaps) maps at
    their centres.
    """

    def __init__(self, edges: np.ndarray, slopes: np.ndarray, maps: np.ndarray | None) -> None:
        self.edges, self.slopes, self.maps = (
            edges.astype(np.float64),
            slopes.astype(np.float64),
            maps,
        )
        self.places = np.linspace(0, 1, len(edges))

    def outputs(self, alphas: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.interp(alphas, self.places, column) for column in self.edges.T], axis=-1
        )

    def cell(self, alphas: np.ndarray) -> np.ndarray:
        return np.clip((np.asarray(alphas) * len(self.slopes)).astype(int), 0, len(self.slopes) - 1)

    def map(self, weights: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """(quantity, pixel): the sum of weights (k, quantity, output) times the maps of cells
        (k,).
        """
        total = np.zeros((weights.shape[1], self.maps[0, 0].size), np.float32)
        for weight, cell in zip(weights, cells, strict=True):
            total += weight.astype(np.float32) @ self.maps[cell].reshape(
                len(self.edges[0]), -1
            ).astype(np.float32)
        return total

    def reference(self, quantities: QuantityMap) -> np.ndarray:
        jacobians = quantities.mean_jacobian(self.edges[:-1], self.edges[1:]) / len(self.slopes)
        return self.map(jacobians, np.arange(len(self.slopes)))


# Schemes: refinements as in the engine, from (quantities, points, tolerance, floor, most)


@dataclass(frozen=True)
class Sampled(RefinementResult):
    """The result of a scheme that says where it took its gradients."""

    tags: np.ndarray


def ours(
    quantities: QuantityMap, points: int, tolerance: float, floor: float, most: int
) -> Refinement:
    return adaptive_refinement(quantities, points, tolerance, floor, most)


def gap_alone(
    quantities: QuantityMap, points: int, tolerance: float, floor: float, most: int
) -> Refinement:
    """As ours, from a quarter of the points and with nothing but the gap promised."""
    return adaptive_refinement(
        quantities, max(points // 4, 1), tolerance, floor, most, residual_tolerance=100.0
    )


def thirds(
    quantities: QuantityMap, points: int, tolerance: float, floor: float, most: int
) -> Refinement:
    """As ours, but borders stay in the middle between neighbouring tags."""
    kept, partition.SWEEPS = partition.SWEEPS, 0
    try:
        return (yield from adaptive_refinement(quantities, points, tolerance, floor, most))
    finally:
        partition.SWEEPS = kept


def centred(parts: int, graded: bool = False) -> Callable[..., Refinement]:
    """Centres of intervals; the worst eighth is cut in 2 (its gradient is lost) or 3 parts (its
    gradient is run again).
    """

    def refinement(
        quantities: QuantityMap, points: int, tolerance: float, floor: float, most: int
    ) -> Refinement:
        basis, mix = quantities.basis(), quantities.mix()
        edges = np.linspace(0, 1, points + 1) ** (1.5 if graded else 1)
        outputs = (yield Request(edges)).outputs
        slopes, spent, values = {}, 0, None
        while True:
            tags = (edges[:-1] + edges[1:]) / 2
            new = np.array(
                [
                    tag
                    for tag, width in zip(tags, np.diff(edges), strict=True)
                    if slopes.get(tag, (0, 0))[0] != width
                ]
            )
            identity = np.repeat(np.eye(outputs.shape[1])[None], len(new), axis=0)
            values = yield Request(new, identity)
            widths = dict(zip(tags, np.diff(edges), strict=True))
            slopes |= {
                tag: (widths[tag], slope) for tag, slope in zip(new, values.slopes, strict=True)
            }
            spent += len(new)
            jacobians = np.diff(edges)[:, None, None] * basis.mean_jacobian(
                outputs[:-1], outputs[1:]
            )
            sampled = np.einsum("kqo,ko->kq", jacobians, np.stack([slopes[tag][1] for tag in tags]))
            residuals = (sampled - np.diff(basis.values(outputs), axis=0)) @ mix.T
            start, stop = quantities.values(outputs[[0, -1]])
            allowed = tolerance * np.maximum(np.abs(stop - start), floor)
            travelled = tolerance * np.abs(np.diff(quantities.values(outputs), axis=0)).sum(axis=0)
            met = np.abs(residuals.sum(axis=0)) <= allowed
            met &= np.linalg.norm(residuals, axis=0) <= np.maximum(travelled, allowed)
            count = min(max(len(tags) // 8, 1), (most - spent) // parts)
            if met.all() or count < 1:
                break
            worst = np.sort(np.argsort(-(np.abs(residuals) / allowed)[:, ~met].max(axis=1))[:count])
            new = np.concatenate(
                [edges[worst] + np.diff(edges)[worst] * part / parts for part in range(1, parts)]
            )
            values = (yield Request(new)).outputs
            order = np.argsort(np.concatenate([edges, new]))
            edges, outputs = (
                np.concatenate([edges, new])[order],
                np.concatenate([outputs, values])[order],
            )
        yield Commit(np.arange(len(tags)), jacobians, np.zeros_like(jacobians))
        return Sampled(stop, start, spent, met, residuals, tags)

    return refinement


def probed(
    quantities: QuantityMap, points: int, tolerance: float, floor: float, most: int
) -> Refinement:
    """Four forward cells an interval first; each tag is the cell most like its interval; all
    gradients at once, twice as many from scratch if the gap does not hold.
    """
    spent, basis, mix = 0, quantities.basis(), quantities.mix()
    while True:
        edges = np.linspace(0, 1, 4 * points + 1)
        outputs = (yield Request(edges)).outputs
        borders = outputs[::4]
        jacobians = (
            basis.mean_jacobian(outputs[:-1], outputs[1:])
            .reshape(points, 4, *basis.logit_weights.shape)
            .mean(axis=1)
            / points
        )
        changes = (np.diff(outputs, axis=0) * 4 * points).reshape(points, 4, -1)
        start, stop = quantities.values(outputs[[0, -1]])
        allowed = tolerance * np.maximum(np.abs(stop - start), floor)
        predicted = (
            np.einsum("kqo,kco->kcq", jacobians, changes)
            - np.diff(basis.values(borders), axis=0)[:, None]
        ) @ mix.T
        best = (np.abs(predicted) / allowed).sum(axis=2).argmin(axis=1)
        tags = (np.arange(points) * 4 + best + 0.5) / (4 * points)
        values = yield Request(tags, np.repeat(np.eye(outputs.shape[1])[None], points, axis=0))
        spent += points
        residuals = (
            np.einsum("kqo,ko->kq", jacobians, values.slopes)
            - np.diff(basis.values(borders), axis=0)
        ) @ mix.T
        met = np.abs(residuals.sum(axis=0)) <= allowed
        if met.all() or spent + 2 * points > most:
            break
        points *= 2
    yield Commit(np.arange(points), jacobians, np.zeros_like(jacobians))
    return Sampled(stop, start, spent, met, residuals, tags)


SCHEMES: dict[str, Callable[..., Refinement]] = {
    "ours: thirds, gradients kept, borders chosen": ours,
    "ours, the gap as the only promise": gap_alone,
    "thirds, gradients kept, borders in the middle": thirds,
    "thirds, old gradients run again": centred(3),
    "halves, old gradients lost": centred(2),
    "halves, first intervals graded towards 0": centred(2, graded=True),
    "forward probes, then all gradients at once": probed,
}


def run(
    curve: Curve, refinement: Refinement, quantities: QuantityMap, floor: float
) -> tuple[int, int, bool, float]:
    """Passes, gradients, whether every gap holds, and the median map error against all samples
    (NaN without maps).
    """
    passes, gradients, width, values = 0, 0, 0, None
    cotangents, weights, cells = [], {}, []
    try:
        while True:
            message = refinement.send(values)
            values = None
            if isinstance(message, Commit):
                weights |= dict(zip(message.nodes.tolist(), message.weights, strict=True))
                continue
            outputs = curve.outputs(message.alphas)
            passes += len(message.alphas)
            if message.cotangents is None:
                values = Values(outputs, np.zeros((len(outputs), 0)))
                continue
            backward = message.cotangents.shape[1]
            width = width or backward  # of the first points, sampled in all directions
            gradients += len(message.alphas) * backward / width
            # Schemes that ask for all five outputs could do with a backward pass for each quantity
            # of the basis.
            passes += len(message.alphas) * min(backward, len(quantities.basis().logit_weights))
            cotangents += list(message.cotangents.reshape(-1, message.cotangents.shape[2]))
            cells += np.repeat(curve.cell(message.alphas), backward).tolist()
            values = Values(
                outputs,
                np.einsum(
                    "kbo,ko->kb", message.cotangents, curve.slopes[curve.cell(message.alphas)]
                ),
            )
    except StopIteration as stop:
        result = stop.value
    error = np.nan
    if curve.maps is not None and len(weights) == len(
        cotangents
    ):  # schemes that run points again leave numbers behind
        matrices = np.stack(
            [
                np.outer(quantities.mix() @ weights[node], cotangents[node])
                for node in range(len(cotangents))
            ]
        )
        error = map_error(curve, quantities, matrices, np.array(cells))
    elif curve.maps is not None:
        jacobians = np.stack([quantities.mix() @ weights[node] for node in sorted(weights)])
        error = map_error(curve, quantities, jacobians, curve.cell(result.tags))
    change = np.maximum(np.abs(result.outcome - result.baseline_outcome), floor)
    holds = bool((np.abs(result.residuals.sum(axis=0)) <= TOLERANCE * change).all())
    return passes, round(gradients), holds, error


def map_error(
    curve: Curve, quantities: QuantityMap, weights: np.ndarray, cells: np.ndarray
) -> float:
    exact = curve.reference(quantities)
    return float(
        np.median(np.abs(curve.map(weights, cells) - exact).sum(axis=1) / np.abs(exact).sum(axis=1))
    )


def fixed(
    curve: Curve, rule: str, quantities: QuantityMap, floor: float
) -> tuple[dict[str, int | None], float]:
    """Passes by three readings of "points enough" (None: more than the ladder holds), and the
    map error at 128 points.
    """
    start, stop = quantities.values(curve.edges[[0, -1]])
    allowed = TOLERANCE * np.maximum(np.abs(stop - start), floor)
    holds = []
    for points in LADDER:
        alphas, weights = quadrature(rule, points)
        u = curve.outputs(alphas)
        jacobians = weights[:, None, None] * quantities.mean_jacobian(u, u)
        gap = np.einsum("kqo,ko->q", jacobians, curve.slopes[curve.cell(alphas)]) - (stop - start)
        holds.append(np.abs(gap) <= allowed)
        if points == 128:
            error = (
                map_error(curve, quantities, jacobians, curve.cell(alphas))
                if curve.maps is not None
                else np.nan
            )
    holds = np.array(holds)
    first = [
        next((p for p, ok in zip(LADDER, column, strict=True) if ok), None) for column in holds.T
    ]
    lasting = [
        next((p for i, p in enumerate(LADDER) if column[i:].all()), None) for column in holds.T
    ]

    def total(points: list[int | None]) -> int | None:
        return None if None in points else 2 * sum(points)

    worst = None if None in lasting else 2 * max(lasting) * len(lasting)
    return {"by luck": total(first), "lasting": total(lasting), "one number": worst}, error


# Samples


def sampled(
    workspace: str, model_id: str, memo: Path, eyes: int, grid: int, maps: int
) -> dict[str, Curve]:
    """Curves by image, from the memo where it has them; eyes are drawn from the test split, all
    stages in turn.
    """
    memo.mkdir(parents=True, exist_ok=True)
    known = sorted(memo.glob("*_line.npz"))
    if len(known) < eyes:
        _sample(workspace, model_id, memo, eyes, grid, maps)
        known = sorted(memo.glob("*_line.npz"))
    curves = {}
    for path in known[:eyes]:
        name, line = path.name.removesuffix("_line.npz"), np.load(path)
        kept = memo / f"{name}_maps.npy"
        curves[name] = Curve(
            line["edges"], line["slopes"], np.load(kept, mmap_mode="r") if kept.exists() else None
        )
    return curves


def _sample(workspace: str, model_id: str, memo: Path, eyes: int, grid: int, maps: int) -> None:
    from dr_lib.network.model import scaled
    from storage import open_workspace
    from tasks.execution.worker import loaded_model

    place = open_workspace(workspace)
    table = place.table("predictions").to_table().to_pandas()
    table = table[table.split == "test"].drop_duplicates("image_id")
    order = table.groupby("stage").cumcount()
    chosen = table.assign(turn=order).sort_values(["turn", "stage"]).image_id[:eyes].tolist()
    fundus = place.fundus()
    name = next(v for v in fundus.data_vars if fundus[v].ndim == 4)
    model = loaded_model(workspace, model_id if model_id != "latest" else table.model_id.iloc[-1])
    logits = logits_model(model)
    size = 4

    def outputs(x: object) -> object:
        return logits(x, training=False)

    forward = backend.compiled(outputs)
    gradient = backend.compiled(
        lambda x, c: backend.vjps(outputs, x, [c[:, stage] for stage in range(5)])[1]
    )
    one_hot = backend.tensor(np.repeat(np.eye(5, dtype=np.float32)[None], size, axis=0))

    def values(x: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(alphas), size):
            rows = np.resize(alphas[first : first + size], size).astype(np.float32)
            found.append(np.asarray(forward(backend.tensor(rows[:, None, None, None] * x))))
        return np.concatenate(found)[: len(alphas)].astype(np.float64)

    for number, image in enumerate(chosen):
        line = memo / f"{image}_line.npz"
        if line.exists():
            continue
        x = scaled(fundus[name].sel(image_id=image).values[None])[0]
        edges, centres = values(x, np.linspace(0, 1, grid + 1)), (np.arange(grid) + 0.5) / grid
        if number < maps:
            kept = np.lib.format.open_memmap(
                memo / f"{image}_maps.npy", "w+", np.float16, (grid, 5, *x.shape[:2])
            )
            slopes = np.zeros((grid, 5))
            for first in range(0, grid, size):
                rows = np.resize(centres[first : first + size], size).astype(np.float32)
                found = gradient(backend.tensor(rows[:, None, None, None] * x), one_hot)
                for stage, part in enumerate(found):
                    products = (np.asarray(part) * x).sum(axis=-1)[: grid - first]
                    kept[first : first + size, stage] = (
                        products * 1024
                    )  # clear of float16's smallest numbers
                    slopes[first : first + size, stage] = products.sum(
                        axis=(1, 2), dtype=np.float64
                    )
        else:
            step = 1 / 4096
            pairs = values(x, np.stack([centres - step, centres + step], axis=1).ravel()).reshape(
                grid, 2, 5
            )
            slopes = (pairs[:, 1] - pairs[:, 0]) / (2 * step)
        np.savez(line, edges=edges, slopes=slopes)
        print(f"sampled {image}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace")
    parser.add_argument("memo", type=Path)
    parser.add_argument("--model-id", default="latest")
    parser.add_argument("--eyes", type=int, default=8)
    parser.add_argument("--maps", type=int, default=4, help="eyes whose maps are sampled too")
    parser.add_argument("--grid", type=int, default=1024)
    parser.add_argument("--points", type=int, default=16, help="to start with")
    options = parser.parse_args()
    curves = sampled(
        options.workspace, options.model_id, options.memo, options.eyes, options.grid, options.maps
    )
    cells = {len(curve.slopes) for curve in curves.values()}
    print(
        f"{len(curves)} eyes, {sum(c.maps is not None for c in curves.values())} with maps,"
        f" {sorted(cells)} samples a line"
    )
    for kind, (prefix, floor) in KINDS.items():
        quantities = stage_quantities(tuple(f"{prefix}{stage}" for stage in range(5)))
        print(
            f"\n{kind}: five outcomes at a {TOLERANCE:.0%} gap, from {options.points} points;"
            " passes (gradients) of each eye"
        )
        for name, scheme in SCHEMES.items():
            found = [
                run(
                    c, scheme(quantities, options.points, TOLERANCE, floor, MOST), quantities, floor
                )
                for c in curves.values()
            ]
            _line(
                name,
                [f"{p} ({g})" for p, g, _, _ in found],
                [p for p, *_ in found],
                [h for *_, h, _ in found],
                [e for *_, e in found],
            )
        for rule in ("midpoint", "gauss_legendre"):
            each = [fixed(curve, rule, quantities, floor) for curve in curves.values()]
            for reading in each[0][0]:
                passes = [readings[reading] for readings, _ in each]
                cells = [str(p) if p else f"> {2 * 5 * LADDER[-1]}" for p in passes]
                _line(
                    f"{rule}, {reading}",
                    cells,
                    [p or 10 * LADDER[-1] for p in passes],
                    [p is not None for p in passes],
                    [error for _, error in each] if reading == "one number" else [np.nan],
                )


def _line(
    name: str, cells: list[str], passes: list[int], holds: list[bool], errors: list[float]
) -> None:
    errors = [error for error in errors if np.isfinite(error)]
    error = f"{statistics.median(errors):.1%}" if errors else "–"
    share = f"{sum(holds)}/{len(holds)}"
    print(
        f"{name:46} median {statistics.median(passes):6.0f}  hold {share:>6}  map error"
        f" {error:>6}  " + "  ".join(cells),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
