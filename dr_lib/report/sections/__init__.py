"""Every section, in the order of the page. How to add one: `dr_lib.report.section`."""

from dr_lib.report.sections import (
    cite,
    counterfactuals,
    eyes,
    groups,
    linearity,
    localisation,
    model,
    photographs,
    regions,
    run,
)

SECTIONS = (
    run.SECTION,
    photographs.SECTION,
    model.SECTION,
    eyes.SECTION,
    groups.SECTION,
    regions.SECTION,
    localisation.SECTION,
    counterfactuals.SECTION,
    linearity.SECTION,
    cite.SECTION,
)
