"""The report's sections, in their order: each is one entry here and one module of this folder.

A section's function takes what the report is about (`tasks.report.data.ReportData`) and the folder
that keeps its pictures; it returns a `dr_lib.report.section.Content`: the values that the section's
template names, `dr_lib/report/templates/sections/<id>.html.j2`. It reads tables and stores, and
computes nothing that they do not hold. All words of the page are in the template.
"""

from collections.abc import Callable

from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content
from tasks.report.data import ReportData
from tasks.report.sections import (
    audit,
    cite,
    compared,
    counterfactuals,
    eyes,
    groups,
    linearity,
    localisation,
    model,
    photographs,
    regions,
    run,
    sources,
    units,
)

# By its id, which is its page's name: the title, and what makes its content.
SECTIONS: dict[str, tuple[str, Callable[[ReportData, Folder], Content]]] = {
    "run": ("The run", run.content),
    "data": ("Data", photographs.content),
    "model": ("Model", model.content),
    "sources": ("Sources", sources.content),
    "compared": ("Compared", compared.content),
    "eyes": ("Explained eyes", eyes.content),
    "groups": ("Groups", groups.content),
    "regions": ("Regions", regions.content),
    "localisation": ("Localisation", localisation.content),
    "audit": ("Audit", audit.content),
    "counterfactuals": ("Counterfactuals", counterfactuals.content),
    "linearity": ("Linearity", linearity.content),
    "units": ("Units", units.content),
    "cite": ("Cite and download", cite.content),
}
