"""The workspace: the only code that touches Zarr, Parquet, model files and their layout. Knows no
science.

Three rules hold for everything in here:

- **The image axis only grows.** A photograph keeps its row for ever, so a result that is written
  once stays in place.
- **Write, then mark.** The ledger entry or record that makes a result count is written last, under
  another name, and renamed (remotely: one PUT). Work that was interrupted has no mark and is done
  again.
- **Ids are hashes of contents.** Folders are named by the hash of what made them, so results of two
  settings never share a folder.

`open_workspace(location)` is the door.
"""

from storage.workspace import Workspace, open_workspace

__all__ = ["Workspace", "open_workspace"]
