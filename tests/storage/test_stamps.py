"""A stamp changes when a file is written again, and no file is read in the tick of its last
change.
"""

import os
import time

import pytest

from storage.photos import fingerprints as stamps
from storage.photos.fingerprints import (
    COARSE_TICK_NS,
    FINE_TICK_NS,
    SECOND_NS,
    entry_stamp,
    file_stamp,
    wait_until_settled,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the waiting, a little after a whole second."""
    now = [1_700_000_000 * SECOND_NS + 900_000_001]
    monkeypatch.setattr(stamps.time, "time_ns", lambda: now[0])
    monkeypatch.setattr(
        stamps.time,
        "sleep",
        lambda seconds: now.__setitem__(0, now[0] + round(seconds * SECOND_NS)),
    )
    return now


def modified(at_ns: int) -> str:
    return f"mtime_ns={at_ns}"


def test_a_stamp_is_the_modification_time_to_the_nanosecond(tmp_path):
    path = tmp_path / "10_left.jpeg"
    path.write_bytes(b"x")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    assert file_stamp(path.stat()) == "mtime_ns=1700000000123456789"


def test_reading_waits_until_the_clock_has_left_the_tick_of_the_last_change(clock):
    start = clock[0]
    wait_until_settled([modified(start - 10 * SECOND_NS), modified(start - 1_000), entry_stamp(1)])
    assert clock[0] == start - 1_000 + FINE_TICK_NS
    wait_until_settled([modified(start - 1_000)])
    assert clock[0] == start - 1_000 + FINE_TICK_NS, "settled files cost nothing"


def test_a_clock_of_whole_seconds_is_given_two(clock):
    second = clock[0] - 900_000_001
    wait_until_settled([modified(second)])
    assert clock[0] == second + COARSE_TICK_NS


@pytest.mark.parametrize("stamps_given", [[], [entry_stamp(7)]])
def test_without_modification_times_nobody_waits(clock, stamps_given):
    start = clock[0]
    wait_until_settled(stamps_given)
    assert clock[0] == start


def test_a_time_far_ahead_is_a_wrong_clocks_and_not_waited_for(clock):
    start = clock[0]
    wait_until_settled([modified(start + 3600 * SECOND_NS)])
    assert clock[0] == start


def test_a_write_after_waiting_gives_another_stamp(tmp_path):
    """On this machine's own file system and clock."""
    path = tmp_path / "10_left.jpeg"
    path.write_bytes(b"a")
    for content in (b"b", b"a", b"b"):
        before = file_stamp(path.stat())
        wait_until_settled([before])
        assert time.time_ns() > int(before.removeprefix("mtime_ns="))
        path.write_bytes(content)
        assert file_stamp(path.stat()) != before
