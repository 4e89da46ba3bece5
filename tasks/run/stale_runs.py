"""A run that was killed cannot say so: the next one of the same workspace says it in its place.

Whoever holds the workspace's lock is the only run there is, so the run that held it before has
ended. If Prefect still takes that run to be running, it died without a word, and its page would
show it running for ever.
"""

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.runtime import flow_run
from prefect.states import Crashed

from storage import Workspace
from storage.layout import LAST_HOLDER
from tasks.run.progress import inside_run

MESSAGE = (
    "its process ended without a word (killed, out of memory, or the machine went down); what it"
    " had finished is kept, and {} goes on from there"
)


def mark_dead_run(workspace: Workspace) -> None:
    """To be called with the workspace's lock held: marks the run that held it before, and its
    steps, Crashed if Prefect takes them to be running still.
    """
    if not inside_run():
        return
    holder = flow_run.root_flow_run_id
    before = (workspace.files.read_json(LAST_HOLDER) or {}).get("flow_run_id", holder)
    workspace.files.write_json(LAST_HOLDER, {"flow_run_id": holder})
    if before == holder:
        return
    message = MESSAGE.format(flow_run.name)
    it = {"any_": [before]}
    wanted = {"operator": "or_", "id": it, "parent_flow_run_id": it}
    # None is found where it ran under another server, or its history has been cleared.
    with get_client(sync_client=True) as client:
        for dead in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            if dead.state and dead.state.is_running():
                client.set_flow_run_state(dead.id, Crashed(message=message), force=True)
