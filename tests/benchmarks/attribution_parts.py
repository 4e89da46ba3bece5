"""The parts of the attribution benchmark: what is asked of the two sides, and the tables of what
they answer.

Every table is printed line by line as its numbers come. This module must not know where eyes and
weights are from.
"""

import argparse
import importlib.util
import statistics

import attribution_pixels
import numpy as np
from attribution_pixels import LADDER, STAGES
from attribution_sides import Side, SideFailed

PARTS = ("neurons", "pixels", "layer", "eye", "share", "memory")
HEADLINES = {
    "neurons": "single units on pixels, midpoints",
    "pixels": "five stages on pixels at the promised gap",
    "layer": "one stage on a layer's units, midpoints",
    "eye": "one eye's complete explanation",
    "share": "eyes that converge",
    "memory": "peak memory of fresh processes",
}


def our_side(options: argparse.Namespace, model: dict, weights: str | None) -> Side:
    """The engine on TensorFlow; without weights, the model's random ones."""
    setup = {"model": model, "weights": weights, "threads": options.threads}
    setup |= {"floor": options.floor, "tolerance": options.tolerance}
    return Side("attribution_engine", _environment(options, "tensorflow"), setup)


def captum_side(options: argparse.Namespace, model: dict, weights: str) -> Side:
    """Captum on PyTorch."""
    setup = {"model": model, "weights": weights, "threads": options.threads}
    return Side("attribution_captum", _environment(options, "torch"), setup)


def _environment(options: argparse.Namespace, backend: str) -> dict[str, str]:
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return quiet | {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": str(options.threads)}


class Bench:
    """The two sides, the eyes, and what has been found so far."""

    def __init__(
        self,
        options: argparse.Namespace,
        model: dict,
        weights: str | None,
        eyes: list[tuple[str, np.ndarray]],
    ) -> None:
        self.options, self.names = options, [name for name, _ in eyes[: options.eyes]]
        self.many = np.stack([pixels for _, pixels in eyes])[: options.share_eyes]
        self.eyes = np.stack([pixels for _, pixels in eyes])[: options.eyes]
        self._sides = (options, model, weights)
        self.ours, self.failed, self.goals = our_side(*self._sides), False, []
        there = all(importlib.util.find_spec(name) for name in ("captum", "torch"))
        self.captum = captum_side(*self._sides) if there and not options.without_captum else None

    def close(self) -> None:
        for side in (self.ours, self.captum):
            if side is not None:
                side.close()

    def goal(self, what: str, found: str, met: bool | None) -> None:
        self.goals.append((what, found, {True: "met", False: "NOT met", None: "–"}[met]))

    def introduce(self) -> None:
        """Both sides, that they compute the same function, what a pass costs, and how long the
        parts will take.
        """
        o = self.options
        ours = self.ours.ask("describe")
        self.ours_speed = ours
        print(
            f"{len(self.eyes)} eyes of {self.eyes.shape[1]} px, {o.threads} threads; gap"
            f" {o.tolerance:.0%} of max(|F(x) − F(x')|, {o.floor})"
        )
        print(
            f"ours: {ours['versions']}, batch {ours['batch']}; {ours['flops'] / 1e9:.2f} GFLOP a"
            " forward pass"
        )
        rate = (
            ours["flops"] / ours["forward"] / ours["matrix_rate"],
            2 * ours["flops"] / ours["gradient"] / ours["matrix_rate"],
        )
        print(
            f"      forward {ours['forward'] * 1e3:.0f} ms, gradient {ours['gradient'] * 1e3:.0f}"
            f" ms an image: {rate[0]:.0%} and {rate[1]:.0%} of the {ours['matrix_rate'] / 1e9:.0f}"
            " GFLOP/s of a float32 matrix product"
        )
        self.captum_gradient = None
        if self.captum is not None:
            try:
                theirs = self.captum.ask("describe")
                speed = self.captum.ask(
                    "calibrate", pixels=self.eyes[:1], points=8 if o.quick else 32
                )
                self.captum_gradient = speed["gradient"]
                print(
                    f"Captum: {theirs['versions']}; milliseconds a point of IntegratedGradients by"
                    " layout and internal batch:"
                )
                for (layout, batch), seconds in speed["table"].items():
                    mark = (
                        "  <- used" if (layout, batch) == (speed["layout"], speed["batch"]) else ""
                    )
                    print(f"      {layout:<30}{batch:>4}{seconds * 1e3:>8.0f}{mark}")
                few = self.eyes[:3]
                a, b = self.ours.ask("outputs", pixels=few), self.captum.ask("outputs", pixels=few)
                print(
                    "      the same function: largest difference of the probabilities of"
                    f" {len(few)} eyes {np.abs(a - b).max():.1e}"
                )
            except SideFailed as failure:
                print(f"Captum is left out: {failure}\n{failure.story}")
                self.captum.close()
                self.captum, self.failed = None, True
        else:
            print(
                "Captum: left out"
                if o.without_captum
                else "Captum: not installed (pip install -c constraints.txt -e '.[bench]')"
            )
        self.estimate()

    def estimate(self) -> None:
        """Seconds each part should take, from the passes just measured; 100 points stand for
        what is not known yet.
        """
        o, g, c = self.options, self.ours_speed["gradient"], self.captum_gradient or 0.0
        typical, ladder = 100, sum(n for n in LADDER if n <= 128)
        of_part = {
            "neurons": 30 + 3 * o.captum_neurons * o.points * c,
            "pixels": (
                30
                + len(self.eyes)
                * (2 * 60 * 3 * g + STAGES * typical * (g + c) + 2 * ladder * 1.2 * g)
                + o.reference_eyes * STAGES * o.reference * g
            ),
            "layer": 30 + o.points * (g + 2 * c),
            "eye": 60 + 700 * g,
            "share": 20 + o.share_eyes * 2 * 60 * 3 * g,
            "memory": 4 * 30 + 1050 * 3 * g + 1100 * c,
        }
        asked = {part: of_part[part] for part in o.parts}
        print(
            "estimated: "
            + ", ".join(f"{part} {s / 60:.0f} min" for part, s in asked.items())
            + f"; {sum(asked.values()) / 60:.0f} min in all",
            flush=True,
        )

    # a.

    def neurons(self) -> None:
        o = self.options
        ours = self.ours.ask(
            "neurons", pixels=self.eyes[:2], layer=o.layer, count=o.neurons, points=o.points
        )
        print(
            f"ours    {ours['seconds'] * 1e3:>9.2f} ms a neuron ({ours['timed']} strongest of"
            f" {o.layer}, {o.points} points, windows of {ours['side']} px; largest gap"
            f" {ours['gap']:.1e})",
            flush=True,
        )
        if self.captum is None:
            return
        rows, worst, relatives = [], 0.0, []
        print(
            "Captum "
            f" {'neuron':<16}{'whole network s':>16}{'below only s':>14}{'ratio':>8}{'ratio below':>12}{'difference':>12}"
        )
        for rank, neuron in enumerate(ours["neurons"][: o.captum_neurons]):
            whole = self.captum.ask(
                "neuron",
                pixels=self.eyes[:1],
                layer=o.layer,
                neuron=neuron,
                points=o.points,
                lower_only=False,
            )
            below = self.captum.ask(
                "neuron",
                pixels=self.eyes[:1],
                layer=o.layer,
                neuron=neuron,
                points=o.points,
                lower_only=True,
            )
            y, x = ours["origin"][rank]
            laid = np.zeros_like(whole["values"])
            laid[y : y + ours["side"], x : x + ours["side"]] = ours["values"][rank]
            difference = np.abs(laid - whole["values"]).max() / np.abs(whole["values"]).max()
            worst = max(worst, difference)
            relatives.append(difference)
            rows.append((whole["seconds"], below["seconds"]))
            ratios = [seconds / ours["seconds"] for seconds in rows[-1]]
            print(
                "       "
                f" {tuple(int(n) for n in neuron)!s:<16}{whole['seconds']:>16.2f}{below['seconds']:>14.2f}{ratios[0]:>8.0f}{ratios[1]:>12.0f}{difference:>12.1e}",
                flush=True,
            )
        ratio = statistics.median(whole for whole, _ in rows) / ours["seconds"]
        print(
            f"median ratio {ratio:.0f}×; difference relative to the map's maximum: median"
            f" {statistics.median(relatives):.1e}, largest {worst:.1e}"
        )
        self.goal("neuron: time of Captum / ours ≥ 300", f"{ratio:.0f}", ratio >= 300)
        self.goal(
            "neuron: largest difference ≤ 1e-5 of the maximum", f"{worst:.1e}", bool(worst <= 1e-5)
        )

    # b.

    def pixels(self) -> None:
        attribution_pixels.pixels(self)

    # c.

    def layer(self) -> None:
        o = self.options
        print(
            f"{'eye':<12}{'ours s':>8}{'Captum s':>10}{'ratio':>7}{'difference':>12}   ({o.layer},"
            f" {o.points} points, the predicted stage)"
        )
        ratios = []
        for index in range(min(len(self.eyes), 3)):
            eye = self.eyes[index : index + 1]
            ours = self.ours.ask("layer", pixels=eye, layer=o.layer, points=o.points)
            if self.captum is None:
                print(f"{self.names[index]:<12}{ours['seconds']:>8.2f}", flush=True)
                continue
            theirs = self.captum.ask(
                "layer", pixels=eye, layer=o.layer, stage=ours["stage"], points=o.points
            )
            ratios.append(theirs["seconds"] / ours["seconds"])
            difference = (
                np.abs(ours["values"] - theirs["values"]).max() / np.abs(theirs["values"]).max()
            )
            print(
                f"{self.names[index]:<12}{ours['seconds']:>8.2f}{theirs['seconds']:>10.2f}{ratios[-1]:>7.2f}{difference:>12.1e}",
                flush=True,
            )
        if ratios:
            self.goal("layer: time of Captum / ours", f"{statistics.median(ratios):.2f}", None)

    # d.

    def eye(self) -> None:
        o = self.options
        found = self.ours.ask("whole", pixels=self.eyes[:2], layers=tuple(o.layers))
        rate = self.ours_speed["matrix_rate"]
        print(
            f"{'part':<26}{'seconds':>9}{'share':>7}{'rows':>7}{'passes':>8}{'GFLOP':>9}{'of matrix rate':>16}"
        )
        total = sum(part["flops"] for part in found["parts"])
        for part in found["parts"]:
            self._eye_row(
                part["part"],
                part["seconds"],
                found["seconds"],
                part["rows"],
                part["passes"],
                part["flops"],
                rate,
            )
        outside = found["seconds"] - sum(part["seconds"] for part in found["parts"])
        print(f"{'outside the network':<26}{outside:>9.2f}{outside / found['seconds']:>7.1%}")
        self._eye_row(
            "whole eye",
            found["seconds"],
            found["seconds"],
            sum(p["rows"] for p in found["parts"]),
            sum(p["passes"] for p in found["parts"]),
            total,
            rate,
        )
        print(
            "by layer: "
            + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["by_part"].items())
        )
        self.goal(
            "one eye, complete",
            f"{found['seconds']:.1f} s at {total / found['seconds'] / rate:.0%} of the matrix rate",
            None,
        )

    @staticmethod
    def _eye_row(
        part: str,
        seconds: float,
        whole: float,
        rows: float,
        passes: float,
        flops: float,
        rate: float,
    ) -> None:
        print(
            f"{part:<26}{seconds:>9.2f}{seconds / whole:>7.1%}{rows:>7.0f}{passes:>8.0f}{flops / 1e9:>9.0f}{flops / max(seconds, 1e-9) / rate:>16.0%}"
        )

    # e.

    def share(self) -> None:
        o = self.options
        eyes = self.many
        print(
            f"{'quantity':<14}{'eyes':>6}{'converged':>11}{'of the maps':>13}{'points: median':>16}{'90 %':>6}{'passes an eye':>15}{'s an eye':>10}"
        )
        for kind, stem in (("probability", "stage"), ("logit", "logit")):
            done = []
            # A dozen at a time fills the batches, and what is done is not lost.
            for start in range(0, len(eyes), 12):
                part = eyes[start : start + 12]
                done.append(
                    (
                        len(part),
                        self.ours.ask(
                            "adaptive",
                            pixels=part,
                            quantities=tuple(f"{stem}{s}" for s in range(STAGES)),
                            max_points=o.max_points,
                        ),
                    )
                )
            converged = np.concatenate([found["converged"] for _, found in done])
            points = np.concatenate([found["points"] for _, found in done])
            n = len(converged)
            passes, seconds = (
                sum(found[key] for _, found in done) / n for key in ("passes", "seconds")
            )
            share = converged.all(axis=1).mean()
            print(
                f"{kind:<14}{n:>6}{share:>11.0%}{converged.mean():>13.0%}{np.median(points):>16.0f}{np.quantile(points, 0.9):>6.0f}{passes:>15.0f}{seconds:>10.1f}",
                flush=True,
            )
            self.goal(
                f"{n} eyes converged within {o.max_points} points, {kind}",
                f"{share:.0%}, median {np.median(points):.0f} points",
                None,
            )

    # f.

    def memory(self) -> None:
        o = self.options
        print(f"{'what':<34}{'points':>7}{'peak MiB':>10}{'of it before':>14}")
        for kind, what in (
            ("pixels", "ours: five stages on pixels"),
            ("neurons", f"ours: 10 units of {o.layer}"),
        ):
            peaks = [
                self._peak(our_side(*self._sides), what, points, kind=kind, layer=o.layer)
                for points in o.memory_points
            ]
            ratio = max(peaks) / min(peaks)
            self.goal(
                f"memory, {kind}: peak at {o.memory_points[1]} / {o.memory_points[0]} points within"
                " 10 %",
                f"{ratio:.3f}",
                ratio <= 1.1,
            )
        if self.captum is not None:
            self._peak(
                captum_side(*self._sides),
                "Captum: one stage, batches",
                o.memory_points[0],
                whole_batch=False,
            )
            self._peak(
                captum_side(*self._sides),
                "Captum: one stage, default",
                o.memory_points[0],
                whole_batch=True,
            )

    def _peak(self, side: Side, what: str, points: int, **arguments: object) -> float:
        try:
            found = side.ask("peak", pixels=self.eyes[:1], points=points, **arguments)
        finally:
            side.close()
        print(
            f"{what:<34}{points:>7}{found['peak'] / 2**20:>10.0f}{found['before'] / 2**20:>14.0f}",
            flush=True,
        )
        return found["peak"]

    def summarise(self) -> None:
        if self.goals:
            print("\n== summary")
            for what, found, met in self.goals:
                print(f"{what:<78}{found:<34}{met}")
