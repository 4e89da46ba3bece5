"""Which fundi, model and explanation a configuration means in a workspace, resolved once a step."""

from dataclasses import dataclass

from storage import Workspace, open_workspace


@dataclass(frozen=True)
class ResolvedIds:
    """Where a step works, and the ids of what it works on. Travels to workers as it is.

    location: the workspace's folder or URL. The ids are content hashes (`storage.ids`).
    """

    location: str
    preprocess_id: str
    model_id: str
    explain_id: str

    @property
    def workspace(self) -> Workspace:
        """The workspace, opened anew."""
        return open_workspace(self.location)
