"""Counterfactuals: what had to change for another grade, beside adversarial examples of the same outcome."""

from types import SimpleNamespace

from dr_lib import figures
from dr_lib.report.data import CounterfactualSection, Triptych
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import records, slugs


def view(folder: Folder, part: CounterfactualSection) -> SimpleNamespace:
    names = slugs(one.image_id for one in part.triptychs)
    return SimpleNamespace(
        triptychs=[_triptych(folder, name, one) for name, one in zip(names, part.triptychs, strict=True)],
        summary=table(records(part.summary)),
        adversarial=table(records(part.adversarial)),
        note=part.note,
    )


def _triptych(folder: Folder, name: str, one: Triptych) -> SimpleNamespace:
    delta, gain = figures.difference(one.original, one.counterfactual)
    of, place = f"of eye {one.image_id}", f"counterfactuals/{name}"
    drawn = [("Fundus", one.original), ("Counterfactual", one.counterfactual), (f"Difference × {gain:.0f}", delta)]
    words = [f"Fundus {of}", f"Counterfactual fundus {of}", f"What changed {of}, magnified"]
    files = ("fundus", "changed", "difference")
    panels = [
        folder.picture(f"{place}-{file}", pixels, alt, caption=caption)
        for file, (caption, pixels), alt in zip(files, drawn, words, strict=True)
    ]
    title = f"{one.image_id}  ·  {one.caption}" if one.caption else one.image_id
    whole = folder.sheet(place, [pixels for _, pixels in drawn], [caption for caption, _ in drawn], title=title)
    failed = one.reached is not None and not one.reached
    return SimpleNamespace(image_id=one.image_id, caption=one.caption, failed=failed, panels=panels, whole=whole)


SECTION = Section("counterfactuals", "Counterfactuals", CounterfactualSection, view)
