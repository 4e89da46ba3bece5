"""One part of some tables, and what it is made from: asked for before the work, written after."""

from dataclasses import dataclass
from typing import Any

from storage import Workspace


@dataclass(frozen=True)
class TablePart:
    """A part that tables share, in one partition. Safe to send to a worker.

    digest: of what its rows are made from. A table has the part if it was written with that.
    """

    workspace: Workspace
    partition: str
    name: str
    digest: str

    def missing(self, *tables: str) -> tuple[str, ...]:
        """Those of the tables in which the part is missing or out of date."""
        return tuple(
            table
            for table in tables
            if not self.workspace.has_part(table, self.partition, self.name, digest=self.digest)
        )

    def write(self, table: str, rows: Any) -> None:
        """Puts these rows in the place of the part's."""
        self.workspace.write_table(
            table, rows, partition=self.partition, part=self.name, digest=self.digest
        )
