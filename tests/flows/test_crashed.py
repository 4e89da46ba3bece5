"""A run that was killed is marked so by the next one of its workspace; a flow's closing state
says what was done, or what to do.
"""

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.states import Running

from flows.config import ConfigError
from flows.service.messages import ProgramFault, readable
from storage import open_workspace
from storage.errors import NotThere
from tasks.execution.failures import Failure, _may_pass
from tasks.execution.waves import Rescue, run_in_waves
from tasks.run.errors import UserError
from tasks.run.stale_runs import LAST_HOLDER, mark_dead_run

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow(name="probe")
def probe(work):
    return work()


@flow(name="dr-killed")
def killed():
    """Stands for a run whose process is gone."""


def run_of(client, run_id):
    return client.read_flow_run(run_id)


def test_a_dead_run_is_marked_crashed_by_the_next_that_holds_the_lock(tmp_path):
    workspace = open_workspace(tmp_path)
    with get_client(sync_client=True) as client:
        dead = client.create_flow_run(killed, state=Running())
        workspace.files.write_json(LAST_HOLDER, {"flow_run_id": str(dead.id)})
        probe(lambda: mark_dead_run(workspace))
        state = run_of(client, dead.id).state
        assert state.type == StateType.CRASHED
        assert "without a word" in state.message
        assert "goes on from there" in state.message
        holder = workspace.files.read_json(LAST_HOLDER)["flow_run_id"]
        assert holder != str(dead.id)
        probe(lambda: mark_dead_run(workspace))
        assert run_of(client, holder).state.type == StateType.COMPLETED, (
            "one that ended is left as it ended"
        )


def test_a_run_of_another_server_is_nobodys_business(tmp_path):
    workspace = open_workspace(tmp_path)
    workspace.files.write_json(LAST_HOLDER, {"flow_run_id": "00000000-0000-4000-8000-000000000000"})
    probe(lambda: mark_dead_run(workspace))


def test_a_failed_run_says_in_its_state_what_to_do(tiny_config, tmp_path):
    from flows.pipeline import FLOWS

    (tmp_path / "photos").mkdir()
    config = str(tiny_config(tmp_path / "photos"))
    with tags("dr", "test"), pytest.raises(UserError, match="run `dr train`"):
        FLOWS["attribute"](config)
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                name={"any_": ["workspace: attribute"]}, tags={"all_": ["test"]}
            )
        )
    assert run.state.type == StateType.FAILED
    assert "run `dr train`" in run.state.message
    assert set(run.tags) == {"dr", "test"}


@pytest.mark.parametrize(
    "error", [UserError("mend this"), ConfigError("this key"), NotThere("make that first")]
)
def test_what_says_what_to_do_is_said_as_it_is(error):
    assert readable(error) is error


def test_a_fault_of_the_program_says_that_work_is_kept():
    told = readable(ZeroDivisionError("division by zero\nmore"))
    assert isinstance(told, ProgramFault)
    assert str(told).startswith("ZeroDivisionError: division by zero; what is finished is kept")
    assert "dask.workers" in str(readable(MemoryError()))


class OnceBroken:
    """A pool whose workers fail the jobs of `broken` a given number of times."""

    workers = 2

    def __init__(self, broken, times, may_pass):
        self.left, self.may_pass, self.calls = dict.fromkeys(broken, times), may_pass, []

    def connect(self):
        """There is nothing to connect to."""

    def load(self):
        return ""

    def run(self, function, jobs):
        for job in jobs:
            self.calls.append(job)
            if self.left.get(job, 0):
                self.left[job] -= 1
                yield job, Failure("ConnectionError: reset", may_pass=self.may_pass)
            else:
                yield job, function(job)


def in_waves(pool, monkeypatch, **options):
    monkeypatch.setattr("tasks.execution.waves.TRY_AGAIN_AFTER_S", 0)
    return probe(
        lambda: run_in_waves(
            pool, "square", lambda n: n * n, range(6), images_of=lambda job: 1, **options
        )
    )


def test_only_failed_shards_are_tried_again_for_what_may_pass(monkeypatch):
    pool = OnceBroken([1], 1, may_pass=True)
    assert in_waves(pool, monkeypatch) == [0, 1, 4, 9, 16, 25]
    assert pool.calls == [0, 1, 2, 3, 4, 5, 1]


def test_results_are_collected_in_the_jobs_order_however_they_come(monkeypatch):
    """Job 1 ends after 2 and 3; what collecting gives back stands in the results' place."""
    collected = []

    def collect(square):
        collected.append(square)
        return -square

    pool = OnceBroken([1], 1, may_pass=True)
    assert in_waves(pool, monkeypatch, collect=collect) == [0, -1, -4, -9, -16, -25]
    assert pool.calls == [0, 1, 2, 3, 4, 5, 1]
    assert collected == [0, 1, 4, 9, 16, 25]


class InFlight:
    """A pool that says what is in flight, as many jobs as the true one; those of `fatal` take
    their worker down.
    """

    workers = 2

    def __init__(self, fatal=()):
        self.fatal, self.flying, self.told = fatal, [], []

    def connect(self):
        """There is nothing to connect to."""

    def load(self):
        return ""

    def run(self, function, jobs):
        waiting = iter(jobs)
        self.flying += [job for _, job in zip(range(2 * self.workers), waiting, strict=False)]
        while self.flying:
            job = self.flying.pop(0)
            self.flying += [another for _, another in zip(range(1), waiting, strict=False)]
            self.told.append((job, len(self.flying)))
            yield (
                job,
                (
                    Failure("its worker process died", killed=True)
                    if job in self.fatal
                    else function(job)
                ),
            )


def test_workers_have_work_across_the_borders_of_waves(monkeypatch):
    pool = InFlight()
    assert in_waves(pool, monkeypatch) == [0, 1, 4, 9, 16, 25]
    # A wave is four jobs: two of the next are in flight when it ends.
    assert pool.told == [(0, 4), (1, 4), (2, 3), (3, 2), (4, 1), (5, 0)]


def test_what_kills_workers_is_searched_for_with_nothing_else_in_flight(monkeypatch):
    pool = InFlight(fatal=[1, ["bad"], ["good", "bad"]])
    rescue = Rescue(
        items=lambda job: ["good", "bad"],
        trial=len,
        without=lambda job, killing: -job if list(killing) == ["bad"] else job,
    )
    assert in_waves(pool, monkeypatch, rescue=rescue) == [0, 1, 4, 9, 16, 25]
    searched = [[], ["good", "bad"], ["good"], ["bad"], -1]
    assert pool.told[:6] == [(0, 4), (1, 4), (2, 3), (3, 2), (4, 1), (5, 0)]
    assert pool.told[6:] == [(job, 0) for job in searched]


@pytest.mark.parametrize(
    ("times", "may_pass", "calls"),
    [(9, True, [0, 1, 2, 3, 4, 5, 1]), (9, False, [0, 1, 2, 3, 4, 5])],
)
def test_what_fails_for_good_is_raised_when_all_others_are_done(
    monkeypatch, times, may_pass, calls
):
    pool = OnceBroken([1], times, may_pass)
    with pytest.raises(
        UserError,
        match=(
            "1 of 6 shards failed and the others are done; the first said: ConnectionError: reset"
        ),
    ):
        in_waves(pool, monkeypatch)
    assert pool.calls == calls


def test_networks_may_pass_and_missing_files_do_not():
    assert _may_pass(ConnectionResetError())
    assert _may_pass(TimeoutError())
    assert not _may_pass(FileNotFoundError())
    assert not _may_pass(NotThere("none"))
    assert not _may_pass(ValueError())
