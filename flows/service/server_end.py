"""Why a Prefect server did not start or ended: the cause and the remedy in a line, from what it
printed.
"""

import re
import tempfile
from typing import IO

from flows.service import network
from storage.files.proxies import without_password
from storage.files.text import shipped_toml
from tasks.run.errors import UserError

REMEDIES = shipped_toml("flows.service", "remedies.toml")
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception|NotFound|Refused)\b.*", re.MULTILINE)


class ServerError(UserError):
    """The Prefect server did not start; the message says why and what to do."""


def cause_of_end(output: IO[bytes]) -> str:
    """The cause of a server's end and the remedy, in a line, from what it printed. All of that
    is kept in a file.
    """
    output.seek(0)
    printed = output.read().decode(errors="replace").strip()
    raised = _RAISED.findall(printed)
    cause = raised[-1] if raised else " ".join(printed.splitlines()[-3:]) or "it printed nothing"
    database = without_password(
        str(network.setting("PREFECT_API_DATABASE_CONNECTION_URL")).removeprefix(
            "sqlite+aiosqlite:///"
        )
    )
    fitting = [
        known["remedy"] for known in REMEDIES["printed"] if re.search(known["seen"], printed)
    ]
    remedy = fitting[0].format(database=database) if fitting else ""
    with tempfile.NamedTemporaryFile(
        "w", prefix="prefect-server-", suffix=".log", encoding="utf-8", delete=False
    ) as log:
        log.write(printed + "\n")
    return "; ".join(filter(None, (cause[:300], remedy, f"all that it printed is in {log.name}")))
