"""`dr serve` for real, in a process of its own: its deployments, its schedule, the watch over runs,
and Prefect's page in a browser.

One service serves all tests here. Its schedule is due every minute; the first tests pass the time
until then.
"""

import contextlib
import http.server
import json
import math
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import Event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running, Scheduled

from flows.registry import STEPS, flow_name
from flows.service.backlog import call_off
from flows.service.watch import HEARTBEAT, watch
from storage import open_workspace
from tasks.run.progress import ALIVE
from tasks.run.settings import ScheduleParams
from tests import chromium

ROOT = pathlib.Path(__file__).parents[2]
MOST_S = 600  # the machine may be busy with other tests
# The least that every step has work with.
SETTINGS = [
    "data.limit=24",
    "attribution.limit=2",
    "attribution.layers=['fc1']",
    "channel_dissection.layers=['stem']",
    "linearity.layers=['fc1']",
    "linearity.limit=1",
    "dask.workers=1",
]


def until(condition, timeout_s: float = MOST_S):
    """What the condition comes to be, once it is something."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.3)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def heard():
    """What a webhook on this machine was told: its address, and the texts."""
    texts: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *told):
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", texts
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def service(tmp_path_factory, drawn_photos, heard):
    """`dr serve` of a tiny pipeline, every minute: its configuration's file, its workspace and
    the address of its server.
    """
    from tests.flows.conftest import TINY

    folder = tmp_path_factory.mktemp("service")
    workspace = folder / "eyes"
    config = folder / "tiny.toml"
    config.write_text(
        TINY.format(photos=drawn_photos, workspace=workspace) + '[schedule]\ncron = "* * * * *"\n'
    )
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "2",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "serve",
        str(config),
        *(word for setting in SETTINGS for word in ("--set", setting)),
        "--notify",
        heard[0],
    ]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    api = f"http://127.0.0.1:{port}/api"
    try:
        until(
            lambda: process.poll() is not None or "Start a run" in (folder / "output").read_text()
        )
        assert process.poll() is None, (folder / "output").read_text()
        with temporary_settings({PREFECT_API_URL: api}, restore_defaults={PREFECT_API_URL}):
            yield config, workspace, api
    finally:
        process.terminate()  # as a service manager does
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(120)
        process.kill()
        ended = process.wait()
    assert ended == 0, "it ends by itself"


@pytest.fixture
def client(service):
    with get_client(sync_client=True) as client:
        yield client


@flow(name="dr-pipeline")
def stand_in():
    """Has the name of the whole pipeline's flow and does nothing."""


def run_under_way(client, name: str):
    """A run as Prefect sees one whose process works elsewhere."""
    run = client.create_flow_run(stand_in, name=name, tags=["dr"])
    client.set_flow_run_state(run.id, Running())
    return run


def sign(client, run, name: str) -> None:
    """Sends the event at once. Prefect's `emit_event` would send it to the server of the first
    test that emitted one in this process.
    """
    event = Event(
        event=name,
        resource={
            "prefect.resource.id": f"prefect.flow-run.{run.id}",
            "prefect.resource.name": run.name,
        },
        related=[{"prefect.resource.id": "prefect.tag.dr", "prefect.resource.role": "tag"}],
    )
    client._client.post("/events", json=[event.model_dump(mode="json")]).raise_for_status()


def test_the_pipeline_and_every_stage_can_be_started_from_the_page(service, client):
    found = {client.read_flow(one.flow_id).name: one for one in client.read_deployments()}
    assert set(found) == {flow_name(name) for name in ("run", *STEPS)}
    assert (found["dr-pipeline"].name, found["dr-train"].name) == ("eyes", "eyes-3-train")
    whole = found["dr-pipeline"]
    assert [(one.schedule.cron, one.schedule.timezone) for one in whole.schedules] == [
        ("* * * * *", "UTC")
    ]
    assert whole.parameters == {"config_file": str(service[0]), "settings": SETTINGS}
    assert {"dr", "eyes"} == set(whole.tags)
    form = whole.parameter_openapi_schema["properties"]
    assert "laid over it for this run alone" in form["settings"]["description"]
    assert not found["dr-train"].schedules


def test_missed_runs_are_called_off_and_a_persons_are_not(service, client):
    hourly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 * * * *"), active=True)
    deployment = client.create_deployment(
        client.create_flow(stand_in), "served by nobody", schedules=[hourly]
    )
    now = datetime.now(UTC)
    missed = {"start_time": (now - timedelta(hours=4)).isoformat(), "end_time": now.isoformat()}
    client._client.post(f"/deployments/{deployment}/schedule", json=missed).raise_for_status()
    by_hand = client.create_flow_run_from_deployment(
        deployment, state=Scheduled(scheduled_time=now - timedelta(minutes=5))
    )
    made = [
        run
        for run in client.read_flow_runs(limit=200)
        if run.deployment_id == deployment and run.auto_scheduled
    ]
    due = {run.id for run in made if run.next_scheduled_start_time < now}
    assert len(due) >= 3
    assert call_off(client, str(deployment), "missed, and one stands in for it") == len(due)
    runs = [run for run in client.read_flow_runs(limit=200) if run.deployment_id == deployment]
    off = [run for run in runs if run.state.type == StateType.CANCELLED]
    assert {run.state.message for run in off} == {"missed, and one stands in for it"}
    assert {run.id for run in off} == due
    assert all(run.state.is_scheduled() for run in runs if run not in off), (
        "what is due later stays, and what a person started"
    )
    assert by_hand.id in {run.id for run in runs} - {run.id for run in off}
    assert call_off(client, str(deployment), "missed") == 0


def test_the_history_of_old_runs_is_cleared_and_a_young_one_stays(service, client):
    config, _, _ = service
    old, young = (client.create_flow_run(stand_in, name=name) for name in ("old", "young"))
    for run in (old, young):
        client.set_flow_run_state(run.id, Completed(), force=True)
    with (
        contextlib.closing(
            sqlite3.connect(config.parent / "prefect" / "prefect.db", timeout=60)
        ) as database,
        database,
    ):
        aged = "update flow_run set end_time = datetime('now', '-91 days') where id = ?"
        assert database.execute(aged, (str(old.id),)).rowcount == 1
    until(
        lambda: (
            {"old", "young"} & {run.name for run in client.read_flow_runs(limit=200)} == {"young"}
        )
    )


def test_the_schedule_starts_a_run_that_completes_and_leaves_its_tables(service, client):
    _, workspace, _ = service

    def scheduled():
        runs = [
            run
            for run in client.read_flow_runs(limit=200)
            if run.auto_scheduled and run.state.is_final()
        ]
        return [run for run in runs if run.state.type != StateType.CANCELLED]

    run = until(scheduled)[0]
    assert (run.state.type, run.name) == (
        StateType.COMPLETED,
        "eyes: whole pipeline",
    ), run.state.message
    assert "report: " in run.state.message
    stages = [
        one.name
        for one in client.read_flow_runs(limit=200)
        if one.name.startswith("eyes: ") and " of 8, " in one.name
    ]
    assert {f"eyes: {place} of 8, {name}" for place, name in enumerate(STEPS, 1)} <= set(stages)
    assert len(open_workspace(workspace).frame("predictions")) == 24
    artifacts = client.read_artifacts(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    )
    assert "pipeline-summary" in {artifact.key for artifact in artifacts}
    (link,) = {
        one.data.split("](")[1].rstrip(")")
        for one in client.read_artifacts(limit=200)
        if one.key == "report-link"
    }
    assert link.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(link, timeout=60) as page:
        assert b"<html" in page.read()


@pytest.mark.skipif(chromium.CHROMIUM is None, reason=chromium.MISSING)
def test_prefects_page_shows_the_schedule_and_the_run_with_its_artifacts(service, client):
    _, _, api = service
    page_address = api.removesuffix("/api")
    done = [run for run in client.read_flow_runs(limit=200) if run.name.endswith("8 of 8, report")]
    with chromium.browser() as page:
        page.resize(1400, 1000)
        page.open(f"{page_address}/deployments")
        page.wait_for(
            "document.body.innerText.includes('dr-pipeline') &&"
            " document.body.innerText.includes('Every minute')"
        )
        page.open(f"{page_address}/runs/flow-run/{done[0].id}")
        page.wait_for("document.body.innerText.includes('eyes: 8 of 8, report')")
        page.wait_for("document.body.innerText.includes('Completed')")
        page.evaluate(
            "[...document.querySelectorAll('a, button, li, div')].findLast(one =>"
            " one.innerText?.trim() === 'Artifacts').click()"
        )
        page.wait_for("document.body.innerText.toLowerCase().includes('report-link')")


# The last: with ten seconds for a sign of life it takes a run that lives for dead.
def test_dead_hanging_and_failed_runs_are_found_and_told(service, client, heard, monkeypatch):
    url, texts = heard
    client.pause_deployment(client.read_deployment_by_name("dr-pipeline/eyes").id)
    monkeypatch.setattr("flows.service.watch.DEAD_AFTER_S", 10)
    watch(ScheduleParams(silent_minutes=0.2), url)
    watch(ScheduleParams(silent_minutes=0.2), url)
    assert len(client.read_automations()) == 3, "a second call changes and adds none"
    dead, hanging, failed = (
        run_under_way(client, f"eyes: {name}") for name in ("killed", "asleep", "mislaid")
    )
    part = run_under_way(client, "eyes: 3 of 8, train")
    client.set_flow_run_state(part.id, Failed(message="told once, by the whole"), force=True)
    signed, mislaid = -math.inf, Failed(message='the folder "photos"\nis gone: mount it')

    def told_of_all():
        """A run sends its signs again and again, and here fails so too: the server misses those
        that come while it reads its automations anew.
        """
        nonlocal signed
        if time.monotonic() > signed + 30:
            sign(client, dead, HEARTBEAT)
            sign(client, hanging, ALIVE)
            client.set_flow_run_state(failed.id, mislaid, force=True)
            signed = time.monotonic()
        runs = ("eyes: killed", "eyes: asleep", "eyes: mislaid")
        return all(any(text.startswith(run) for text in texts) for run in runs)

    until(told_of_all)
    assert client.read_flow_run(dead.id).state.type == StateType.CRASHED
    assert "start it again and it goes on from there" in client.read_flow_run(dead.id).state.message
    for name, words in (
        ("eyes: killed", "Crashed: no sign of life"),
        ("eyes: asleep", "it may hang"),
        ("eyes: mislaid", 'Failed: the folder "photos"\nis gone: mount it'),
    ):
        text = next(text for text in texts if text.startswith(name))
        assert words in text
        assert "/runs/flow-run/" in text
    assert not [text for text in texts if "3 of 8" in text]
