"""Why a Prefect server did not start or ended: the cause and the remedy in a line, from what it
printed.
"""

import re
import tempfile
from typing import IO

from storage.files.proxies import without_password

# What a server that ended at once may have printed, and what to do then; the first that fits.
REMEDIES = {
    r"unable to open database file|readonly database|Permission denied|Read-only file system": (
        "{database} must be a file in a folder that you may write to: set PREFECT_HOME (or"
        " PREFECT_API_DATABASE_CONNECTION_URL, where it is set) to another place"
    ),
    r"disk is full|No space left": (
        "free some space where {database} lies, or set PREFECT_HOME to a folder on another disk"
    ),
    r"is not a database|malformed|disk I/O error": (
        "{database} is damaged: move it away (it holds the history of runs, no results), or "
        "set PREFECT_HOME to another folder"
    ),
    r"Can't locate revision|no such revision": (
        "{database} was made by another version of Prefect: set PREFECT_HOME to another "
        "folder, or install that version"
    ),
    r"database is locked": (
        "another server uses {database}, or its disk cannot lock files: set PREFECT_HOME to a"
        " folder on a local disk"
    ),
    r"password authentication|permission denied for|Connection refused|Connect call failed|could"
    r" not translate host|Name or service not known|"
    r"does not exist|parse SQLAlchemy URL|Can't load plugin": (
        "set PREFECT_API_DATABASE_CONNECTION_URL to a database that answers, or unset it"
    ),
    r"already in use": (
        "end the program that has the port, or set PREFECT_SERVER_API_PORT to a free one"
    ),
}


_RAISED = re.compile(r"^[\w.]*(?:Error|Exception|NotFound|Refused)\b.*", re.MULTILINE)


class ServerError(Exception):
    """The Prefect server did not start; the message says why and what to do."""


def cause_of_end(output: IO[bytes]) -> str:
    """The cause of a server's end and the remedy, in a line, from what it printed. All of that
    is kept in a file.
    """
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    output.seek(0)
    printed = output.read().decode(errors="replace").strip()
    raised = _RAISED.findall(printed)
    cause = raised[-1] if raised else " ".join(printed.splitlines()[-3:]) or "it printed nothing"
    database = without_password(
        str(PREFECT_API_DATABASE_CONNECTION_URL.value()).removeprefix("sqlite+aiosqlite:///")
    )
    remedy = next(
        (
            what.format(database=database)
            for seen, what in REMEDIES.items()
            if re.search(seen, printed)
        ),
        "",
    )
    with tempfile.NamedTemporaryFile(
        "w", prefix="prefect-server-", suffix=".log", encoding="utf-8", delete=False
    ) as log:
        log.write(printed + "\n")
    return "; ".join(filter(None, (cause[:300], remedy, f"all that it printed is in {log.name}")))
