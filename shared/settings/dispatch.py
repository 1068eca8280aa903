"""Settings of queueing, liveness and retries."""

from typing import Annotated

from pydantic import Field

from shared.settings.base import Section


class DispatchSettings(Section):
    """How candidates reach devices, and how losses are noticed. All times in seconds."""

    depth: Annotated[int, Field(ge=1, le=64, description="Candidates at a device at most, running one included.")] = 2
    max_attempts: Annotated[int, Field(ge=1, le=100, description="Attempts at a candidate before it fails.")] = 3
    max_tasks_in_flight: Annotated[
        int, Field(ge=1, description="Tasks of which candidates are asked for at the same time.")
    ] = 64
    heartbeat_interval: Annotated[float, Field(gt=0, description="Time between two heartbeats of a device.")] = 1.0
    heartbeat_ttl: Annotated[
        float, Field(gt=0, description="A device silent for so long is lost, and its candidates run elsewhere.")
    ] = 6.0
    reconcile_interval: Annotated[
        float, Field(gt=0, description="Time between two comparisons of what should run with what does.")
    ] = 1.0
    lost_after: Annotated[
        float, Field(gt=0, description="A message that nobody has taken up for so long, with an empty queue, is lost.")
    ] = 10.0
    score_timeout: Annotated[
        float, Field(gt=0, description="A judgement not back after this time is asked for again.")
    ] = 600.0
    visibility_timeout: Annotated[
        float, Field(gt=0, description="Broker's own redelivery; above the longest job. Recovery does not wait for it.")
    ] = 21600.0
    load_timeout: Annotated[float, Field(gt=0, description="Longest time a model may take to load.")] = 1800.0
    events: Annotated[bool, Field(description="Send Celery's own events, which Flower shows.")] = True
