"""What fails after a failure, while it is noted or cleared up, never takes the first error's
place.
"""

import errno
import os
from contextlib import ExitStack

import httpx
import pytest
import typer

from flows import pipeline
from flows.cli.command_line import one_line_errors
from flows.config import load_config
from flows.registry import STEPS, Step
from storage import open_workspace
from storage.errors import CannotWrite, after_failure
from storage.files.files import Files
from tasks.attribute.estimate import Estimate
from tasks.attribute.step import _recorded
from tasks.execution.pool import Pool
from tasks.run.errors import UserError
from tasks.run.session import Session
from tasks.run.settings import DaskParams


def full_disk(*_given, **_names):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fails(clear_up):
    """A failure, after which clearing up fails as well."""
    try:
        raise UserError("the first")
    finally:
        clear_up()


def fails_inside(context, spoil):
    """A failure inside a context that cannot be left in good order."""
    with context:
        spoil()
        raise UserError("the first")


def test_the_first_error_goes_on_and_carries_the_second_as_a_note():
    with pytest.raises(UserError, match="the first") as caught:
        fails(after_failure()(full_disk))
    assert caught.value.__notes__ == ["After that: OSError: [Errno 28] No space left on device"]


def test_without_a_first_error_the_second_is_the_first():
    with pytest.raises(OSError, match="No space left"), after_failure():
        full_disk()
    with after_failure():
        pass


def test_ctrl_c_is_heard_while_a_failure_is_recorded():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails(after_failure()(interrupted))


@pytest.fixture
def session(tmp_path):
    return Session(open_workspace(tmp_path / "workspace"), Pool(DaskParams(workers=1)))


@pytest.mark.parametrize(
    "first", [UserError("the first"), CannotWrite("the first"), KeyboardInterrupt("the first")]
)
def test_a_stage_that_fails_on_a_full_disk_says_why_and_not_that_it_could_not_be_noted(
    session, tiny_config, tmp_path, monkeypatch, first
):
    def fail(*_given):
        monkeypatch.setattr("storage.files.files.write_whole", full_disk)
        raise first

    monkeypatch.setitem(STEPS, "ingest", Step("", fail))
    with pytest.raises(type(first), match="the first"):
        pipeline.run_step("ingest", session, load_config(tiny_config(tmp_path)))
    assert session.workspace.count("runs") == 0


def test_an_attribution_whose_record_cannot_be_written_says_what_failed_before(
    tmp_path, monkeypatch
):
    class Store:
        files = open_workspace(tmp_path / "workspace").files

    written = []
    planned = Estimate.__new__(Estimate)
    object.__setattr__(planned, "images", 3)
    monkeypatch.setattr(
        "tasks.attribute.step.dataclasses.asdict", lambda planned: {"images": planned.images}
    )
    write_json = Files.write_json
    monkeypatch.setattr(
        Files,
        "write_json",
        lambda self, name, value: (written.append(value), write_json(self, name, value)),
    )
    with pytest.raises(UserError, match="the first"):
        fails_inside(
            _recorded(Store, "0123456789ab", planned),
            lambda: monkeypatch.setattr("storage.files.files.write_whole", full_disk),
        )
    assert [one["state"] for one in written] == ["running", "failed"]


def test_workers_that_do_not_stop_hide_nothing():
    pool = Pool(DaskParams(workers=1))
    pool._closing = ExitStack()
    pool._closing.callback(full_disk)
    with pytest.raises(UserError, match="the first"):
        fails(pool.close)


def test_a_remote_lock_that_cannot_be_given_back_hides_nothing(monkeypatch):
    ws = open_workspace("memory://first-error")
    with pytest.raises(UserError, match="the first"):
        fails_inside(ws.lock("run"), lambda: monkeypatch.setattr(Files, "read_json", full_disk))
    monkeypatch.undo()
    ws.files.remove_tree("")


def test_a_file_that_cannot_be_written_says_so_though_its_leftover_cannot_be_removed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    monkeypatch.setattr(
        "pathlib.Path.unlink",
        lambda *given, **names: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")),
    )
    with pytest.raises(CannotWrite, match="No space left on device; free some space"):
        Files(str(tmp_path)).write("x", b"new")


def test_a_lock_on_a_full_disk_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", full_disk)
    with (
        pytest.raises(CannotWrite, match=r"run\.lock cannot be written: No space left"),
        open_workspace(tmp_path).lock("run"),
    ):
        pass


@pytest.mark.parametrize(
    "second",
    [httpx.ConnectError("no"), httpx.HTTPStatusError("500", request=None, response=None)],
    ids=["lost", "failing"],
)
def test_a_server_that_cannot_be_told_of_a_failure_hides_nothing(second, capsys):
    def report():
        raise second

    def fail():
        try:
            raise CannotWrite("photos.parquet cannot be written: No space left on device")
        finally:
            report()

    with pytest.raises(typer.Exit) as caught:
        one_line_errors(fail)()
    assert caught.value.exit_code == 1
    assert (
        capsys.readouterr().err == "dr: photos.parquet cannot be written: No space left on device\n"
    )


def test_a_fault_of_the_program_stays_one_though_an_error_was_handled_before():
    with pytest.raises(KeyError, match="a fault"):
        one_line_errors(lambda: fails(lambda: {}["a fault"]))()
