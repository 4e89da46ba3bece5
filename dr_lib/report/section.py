"""What a section of the report is, so that adding one touches nothing that is there.

A new section is (1) a module in `dr_lib/report/sections` with a frozen dataclass of its numbers, a
`view` and a `SECTION`; (2) its template `templates/section_<id>.html.j2`; (3) a line in `SECTIONS`;
(4) a function in `tasks` that reads its numbers, named in `tasks.report.data.PARTS`. A section with
a `page` of its own stands there, and the page is in the navigation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dr_lib.report.pictures import Folder


@dataclass(frozen=True)
class Section:
    """One part of the report.

    id: its anchor, its key in `ReportData.parts`, and the name of its template. nothing: makes the
    part where none was given, usually the part's own dataclass: the template then says which
    command fills it. view: (folder, part) → what the template sees as `view`; draws its pictures
    into the folder. page: the page it stands on, `index` or a name of its own, such as `units`
    (units.html). page_title: that page's name in the navigation; needed once a page.
    """

    id: str
    title: str
    nothing: Callable[[], Any]
    view: Callable[[Folder, Any], Any]
    page: str = "index"
    page_title: str = ""

    @property
    def template(self) -> str:
        return f"section_{self.id}.html.j2"
