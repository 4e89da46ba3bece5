"""The workspace: the only code that touches Zarr, Parquet, model files and their layout. Knows no
science.

What is true of everything in here:

- **The image axis only grows.** A photograph keeps its row for ever, so a result written once stays
in place.
- **Whole pieces, then the mark.** A shard or a file is written under another name and renamed
(remotely: one PUT).
  The ledger entry or record that makes it count comes last, so an interruption leaves work undone,
  never half believed.
- **Ids are contents.** Folders are named by the hash of what made them; results of two settings
never share a folder.

`open_workspace(location)` is the door; importing this package loads no array or table library.
"""

from storage.workspace import Workspace, open_workspace

__all__ = ["Workspace", "open_workspace"]
