"""Local Moondream on a queue of its own, in a worker of its own whose environment has what its code needs.

`pip install --target DIR 'transformers>=4.57,<5' 'huggingface_hub<1'` and `TRANSFORMERS4=DIR` for the whole of it;
without, that worker has no transformers 4, says so, and the next judge in the list judges.
"""

import json
import os
from pathlib import Path

import pytest

from inpaint_eacps.child import ChildPlan
from inpaint_eacps.choice import choose_here
from shared.outcome import TaskState
from shared.queues import SCORE
from shared.settings import Settings
from shared.types import CRITERIA
from tests.fleet import GENERATOR, Fleet, make_tasks

pytestmark = [pytest.mark.valkey, pytest.mark.slow, pytest.mark.torch]

QUEUE = "score.moondream"
TRANSFORMERS4 = os.environ.get("TRANSFORMERS4", "")

#: As in Moondream's repository, the model's code lies beside its weights.
CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "tiny-moondream"


class TinyMoondream(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.score = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def query(self, image, question):
        if "side by side" in question:
            assert image.width == 2 * image.height
        return {"answer": f"{self.score.item():.1f} out of 10"}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one number, 6.5."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "moondream"
    folder.mkdir()
    (folder / "modeling.py").write_text(CODE)
    names = {"AutoConfig": "modeling.TinyConfig", "AutoModelForCausalLM": "modeling.TinyMoondream"}
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny-moondream", "auto_map": names}))
    save_file({"score": torch.tensor([6.5])}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_local_moondream_is_asked_on_its_own_queue(tmp_path: Path, model: Path) -> None:
    scoring = {
        "judges": ["moondream", "local"],
        "gates": False,
        "moondream": {"mode": "local", "model": str(model)},
    }
    tasks = make_tasks(tmp_path / "in", 1)
    with Fleet(tmp_path, scoring=scoring) as fleet:
        choice = choose_here(fleet.settings, {})
        assert choice.own_queue == ("moondream",)
        run = fleet.client.submit(
            tasks, fleet.settings, generator=GENERATOR, judges=choice.judges, own_queue=choice.own_queue
        ).run
        fleet.wait(lambda: int(fleet.client.ledger.redis.llen(QUEUE)) > 0, "a job on the queue of its own")
        assert int(fleet.client.ledger.redis.llen(SCORE)) == 0, "nobody else is asked, and nobody else takes it up"
        plan = ChildPlan(role="score", settings=Settings(), queues=(QUEUE,), concurrency=2)
        paths = os.pathsep.join(filter(None, (TRANSFORMERS4, str(Path.cwd()))))
        fleet.join("score.moondream", plan, env={"PYTHONPATH": paths, "HF_HOME": str(tmp_path / "hf")})
        (outcome,) = fleet.outcomes(run, 120)
        metrics = fleet.metrics(tasks[0].id)
    assert outcome.state is TaskState.DONE
    for candidate in metrics["candidates"]:
        first, *others = candidate["judgements"]
        assert first["judge"] == "moondream"
        if TRANSFORMERS4:
            assert candidate["scores"] == dict.fromkeys(CRITERIA, 6.5)
            assert first["usage"]["calls"] == 3
            assert others == []
        else:
            assert all("transformers 4" in reason for reason in first["missing"].values())
            assert [judgement["judge"] for judgement in others] == ["local"]
