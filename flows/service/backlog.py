"""Scheduled runs that came due while none could start: one of them runs, the others are called off
with the reason.

Without this they would pile up: three runs that were due during a long one would follow it back to
back, each to find nothing new. Prefect's own limit for a deployment is not used: a run that is
killed together with its server keeps its slot for good, and no scheduled run would start again.
"""

import contextlib
from collections.abc import Generator
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled

from storage.errors import after_failure


@contextlib.contextmanager
def skip_missed() -> Generator[None]:
    """Around the work of a deployment's run: calls off the scheduled runs that are due when it
    starts and when it ends.

    A run that a person started waits its turn as it is; only the schedule's own are called off.
    """
    if not deployment.id:
        yield
        return
    with get_client(sync_client=True) as client:
        call_off(
            client,
            deployment.id,
            f"missed while nothing could start; {flow_run.name} stands in for it",
        )
        try:
            yield
        finally:
            with after_failure():
                call_off(client, deployment.id, f"skipped: {flow_run.name} was still under way")


def call_off(client: SyncPrefectClient, deployment_id: str, reason: str) -> int:
    """Cancels the runs of a deployment that its schedule made and that are due already; returns
    how many.
    """
    wanted = {
        "deployment_id": {"any_": [deployment_id]},
        "state": {"type": {"any_": [StateType.SCHEDULED]}},
        "next_scheduled_start_time": {"before_": datetime.now(UTC)},
    }
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=200)
    due = [run for run in found if run.auto_scheduled]
    for run in due:
        client.set_flow_run_state(run.id, Cancelled(message=reason), force=True)
    return len(due)
