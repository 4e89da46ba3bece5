"""The watch over runs on a Prefect server: three automations that find dead and hanging runs, and
tell somebody.

- A run that sends no sign of life (Prefect's heartbeat) is marked Crashed; its process was killed
or its machine is down.
- A run that lives but gets on with nothing is told of: it may hang.
- A run that ended in Failed, Crashed or TimedOut is told of, with the words of its state.

Telling is one POST to a webhook, the block `dr-notify` of the server, with a JSON body whose `text`
chat programs show.
"""

from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture

from tasks.run.progress import ALIVE, result_of
from tasks.run.settings import ScheduleParams

BLOCK = "dr-notify"
HEARTBEAT = "prefect.flow-run.heartbeat"
# More than twice the three minutes between a run's signs, which is Prefect's default: whoever
# started it, a run that lives is never marked.
DEAD_AFTER = timedelta(seconds=400)
ENDS = {
    f"prefect.flow-run.{state}"
    for state in ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
}
BAD_ENDS = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
OURS = {"prefect.resource.id": ["prefect.tag.dr"], "prefect.resource.role": "tag"}
ANY_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
# A step inside the whole pipeline, `demo: 3 of 8, train`, fails the pipeline too: that is told
# once.
WHOLE_RUN = {**ANY_RUN, "prefect.resource.name": "!*: ? of ?, *"}
DEAD_MESSAGE = (
    "no sign of life: its process was killed, ran out of memory, or its machine went down. What it"
    " had finished is kept; start it again and it goes on from there"
)


def watch(
    schedule: ScheduleParams, notify: str = "", *, dead_after: timedelta = DEAD_AFTER
) -> bool:
    """Sets up the automations on the server, in the place of those of an earlier call.

    Parameters
    ----------
    schedule: says after how many minutes without progress a run is reported.
    notify: the webhook's URL, kept in the server's block; empty for the block of an earlier call or
        of the server's page, if any.
    dead_after: how long a run may give no sign of life.

    Returns
    -------
    Whether there is a webhook, so that somebody will be told.
    """
    _set(
        "dr: a run without a sign of life is marked Crashed",
        _silence(HEARTBEAT, dead_after),
        ChangeFlowRunState(state=StateType.CRASHED, message=DEAD_MESSAGE),
    )
    block_id = _webhook(notify)
    if block_id is None:
        return False
    _set(
        "dr: a run that gets on with nothing is told of",
        _silence(ALIVE, timedelta(minutes=schedule.silent_minutes)),
        _message(
            block_id,
            f'" has finished no image and no mini-batch for {schedule.silent_minutes:g} minutes: it'
            ' may hang. Cancel it on its page and start it again; what is finished is kept."',
        ),
    )
    _set(
        "dr: a run that failed or crashed is told of",
        EventTrigger(
            expect=BAD_ENDS,
            match=WHOLE_RUN,
            match_related=OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        _message(block_id, '": " ~ flow_run.state.name ~ ": " ~ flow_run.state.message'),
    )
    return True


def _silence(sign: str, within: timedelta) -> EventTrigger:
    """A run of ours that gave this sign and then, for so long, neither another nor its end."""
    return EventTrigger(
        after={sign},
        expect={sign, *ENDS},
        match=ANY_RUN,
        match_related=OURS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _message(block_id: UUID, words: str) -> CallWebhook:
    """words: what follows the run's name and comes before its page's address, an expression of
    Prefect's templates.
    """
    text = f'flow_run.name ~ {words} ~ " " ~ (flow_run|ui_url)'
    return CallWebhook(block_document_id=block_id, payload=f'{{"text": {{{{ ({text})|tojson }}}}}}')


def _set(name: str, trigger: EventTrigger, action: ChangeFlowRunState | CallWebhook) -> None:
    """Makes the automation, or makes the one of this name so."""
    automation = Automation(
        name=name, description="Set up by dr serve or dr watch.", trigger=trigger, actions=[action]
    )
    try:
        # Prefect's overloads say that it is a coroutine, which only an event loop is given.
        automation.id = Automation.read(name=name).id  # ty: ignore[missing-attribute]
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
        return result_of(block.save(BLOCK, overwrite=True))
    try:
        return result_of(Webhook.load(BLOCK))._block_document_id
    except ValueError:
        return None
