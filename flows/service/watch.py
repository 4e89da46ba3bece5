"""The watch over runs on a Prefect server: three automations that find dead and hanging runs, and
tell somebody.

- A run that sends no sign of life (Prefect's heartbeat) is marked Crashed; its process was killed
or its machine is down.
- A run that lives but gets on with nothing is told of: it may hang.
- A run that ended in Failed, Crashed or TimedOut is told of, with the words of its state.

Telling is one POST to a webhook, the block `dr-notify` of the server, with a JSON body whose `text`
chat programs show.
"""

import pathlib
import string
import tomllib
from typing import Any
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook

from tasks.run.progress import ALIVE
from tasks.run.settings import ScheduleParams

BLOCK = "dr-notify"
HEARTBEAT = "prefect.flow-run.heartbeat"
# More than twice the three minutes between a run's signs, which is Prefect's default: whoever
# started it, a run that lives is never marked.
DEAD_AFTER_S = 400
AUTOMATIONS = pathlib.Path(__file__).with_name("automations.toml")


def watch(schedule: ScheduleParams, notify: str = "") -> str:
    """Sets up the automations on the server, in the place of those of an earlier call.

    Parameters
    ----------
    schedule: says after how many minutes without progress a run is reported.
    notify: the webhook's URL, kept in the server's block; empty for the block of an earlier call or
        of the server's page, if any.

    Returns
    -------
    A line that says who hears of a run that fails.
    """
    block_id = _webhook(notify)
    text = string.Template(AUTOMATIONS.read_text("utf-8")).substitute(
        heartbeat=HEARTBEAT,
        alive=ALIVE,
        dead_seconds=DEAD_AFTER_S,
        silent_minutes=f"{schedule.silent_minutes:g}",
        silent_seconds=60 * schedule.silent_minutes,
        block_id=block_id,
    )
    automations = tomllib.loads(text)
    _set(automations["dead"])
    if block_id is None:
        return (
            "Nobody is told of runs that fail or hang; give --notify URL, a webhook (dead runs are"
            " marked Crashed all the same)"
        )
    _set(automations["hangs"])
    _set(automations["failed"])
    return f"Runs that fail, crash or hang are reported to the webhook {BLOCK}"


def _set(given: dict[str, Any]) -> None:
    """Makes the automation, or makes the one of this name so."""
    about = {"description": "Set up by dr serve or dr watch."}
    automation = Automation.model_validate(given | about)
    try:
        # Prefect's types name the coroutine too that only an event loop is given.
        automation.id = Automation.read(name=automation.name).id  # ty: ignore[missing-attribute]
    except ValueError:
        automation.create()
    else:
        automation.update()


def _webhook(url: str) -> UUID | None:
    """The id of the block that tells people, made or changed if a URL is given; None where there
    is none.
    """
    if url:
        block = Webhook(method="POST", url=url, headers={"Content-Type": "application/json"})
        block.save(BLOCK, overwrite=True)
    try:
        return Webhook.load(BLOCK)._block_document_id  # ty: ignore[missing-union-attribute]
    except ValueError:
        return None
