"""Real score workers on a real Valkey and nothing else: jobs go in through the queue, answers come out of the inbox."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import redis

from inpaint_eacps.child import BROKER_VARIABLE, ChildPlan
from inpaint_eacps.supervisor import ChildSpec, Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.artifacts import ArtifactStore
from shared.celery_app import make_app, sender
from shared.heartbeat import live_helpers
from shared.images import encode_png
from shared.ledger import Command, Keys, Ledger
from shared.messages import EVENT, CandidateJudged, CandidatesCompared, CompareJob, Run, ScoreJob
from shared.queues import COMPARE_TASK, PREPARE, SCORE, SCORE_TASK
from shared.settings import Settings
from shared.types import CRITERIA, ArtifactRef, Judgement, Prepared
from tests.judge_support import KEY, request

Answer = TypeVar("Answer", CandidateJudged, CandidatesCompared)


class ScoreBench:
    """`workers` score workers of `threads` threads each, every one a process of its own. A context manager."""

    def __init__(
        self, folder: Path, workers: int = 2, threads: int = 8, env: Mapping[str, str] | None = None, key: str = KEY
    ) -> None:
        self.folder, self._workers, self._threads = folder, workers, threads
        clean = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
        self._env = {**clean, "GEMINI_API_KEY": key, **(env or {})}
        self._supervisor = Supervisor()
        self._valkey = EmbeddedValkey(folder / "valkey", self._supervisor)
        self.store = ArtifactStore(str(folder / "results"))
        self._runs = 0

    def __enter__(self) -> "ScoreBench":
        self._valkey.start()
        self.ledger = Ledger(self._valkey.url)
        self._app = make_app(self._valkey.url, (SCORE,))
        self._send = sender(self._app)
        shown = request()
        self.prepared = Prepared(
            init=self.store.write("task_7/init.png", encode_png(shown.init)),
            mask=self.store.write("task_7/mask.png", encode_png(shown.mask)),
            character=self.store.write("task_7/character.png", encode_png(shown.character)),
            width=shown.init.shape[1],
            height=shown.init.shape[0],
            mask_fraction=float((shown.mask > 0).mean()),
            mask_box=(40, 24, 88, 72),
        )
        for number in range(self._workers):
            self._start(f"score{number}")
        deadline = time.monotonic() + 60
        while sum(map(bool, live_helpers(self.ledger).values())) < self._workers:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)
        return self

    def __exit__(self, *what: object) -> None:
        with contextlib.suppress(Exception):
            self._app.close()
        self._supervisor.stop(2.0)

    def _start(self, name: str) -> None:
        plan = ChildPlan(role="score", settings=Settings(), queues=(SCORE, PREPARE), concurrency=self._threads)
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(plan.model_dump(mode="json", exclude={"settings": {"broker"}})))
        env = {**self._env, BROKER_VARIABLE: self._valkey.url}
        argv = [sys.executable, "-m", "inpaint_eacps.child", str(file)]
        self._supervisor.start(ChildSpec(name, argv, env, self.folder / "logs" / f"{name}.log"))

    @property
    def redis(self) -> "redis.Redis":
        """The broker."""
        return self.ledger.redis

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids by name."""
        return self._supervisor.pids()

    def logs(self) -> str:
        """What all workers have logged."""
        return "".join(file.read_text() for file in sorted((self.folder / "logs").glob("*.log")))

    def actions(self) -> list[str]:
        """The `action` of every record that the workers have logged."""
        lines = (line for line in self.logs().splitlines() if line.startswith("{"))
        return [str(json.loads(line).get("action")) for line in lines]

    def run(self, settings: Settings, judge: str = "gemini") -> str:
        """Enter a run, and return its id."""
        self._runs += 1
        run = Run(
            id=f"run-{self._runs}",
            settings=settings.model_dump(mode="json", exclude={"broker"}),
            config_hash="c",
            generation_hash="g",
            created=self.ledger.now(),
            store=str(self.folder / "results"),
            generator="composite",
            judges={judge: tuple(CRITERIA)},
        )
        self.ledger.do([("SET", Keys.run(run.id), run.model_dump_json())])
        return run.id

    def image(self, number: int) -> ArtifactRef:
        """A result; another number is another one, and -1 is the init image as it was."""
        pixels = request().init if number < 0 else request(number).result
        return self.store.write(f"task_7/candidates/r{number}.png".replace("-", "m"), encode_png(pixels))

    def judge(
        self,
        settings: Settings,
        numbers: Sequence[int] = (0,),
        *,
        run: str | None = None,
        judge: str = "gemini",
        gates: bool = False,
        timeout: float = 25,
    ) -> tuple[Judgement, ...]:
        """Have results judged at once, through the queue."""
        run = run or self.run(settings, judge)
        jobs = [
            ScoreJob(
                run=run, task="7", character_name="Mira", store=str(self.folder / "results"), prepared=self.prepared,
                candidate=f"g{place:02d}", attempt=1, image=self.image(number), judge=judge, gates=gates, preview=False,
            )
            for place, number in enumerate(numbers)
        ]  # fmt: skip
        for job in jobs:
            self._hand_in(SCORE_TASK, job)
        events = self._answers(CandidateJudged, [job.key for job in jobs], timeout)
        found = {event.candidate: event.judgements[0] for event in events}
        return tuple(found[job.candidate] for job in jobs)

    def compare(
        self, settings: Settings, first: int, second: int, *, judge: str = "gemini", timeout: float = 25
    ) -> CandidatesCompared:
        """Have two results compared, through the queue."""
        run = self.run(settings, judge)
        job = CompareJob(
            run=run, task="7", character_name="Mira", store=str(self.folder / "results"), prepared=self.prepared,
            first="g00", second="g01", first_image=self.image(first), second_image=self.image(second), judge=judge,
        )  # fmt: skip
        self._hand_in(COMPARE_TASK, job)
        return self._answers(CandidatesCompared, [job.key], timeout)[0]

    def _hand_in(self, task: str, job: ScoreJob | CompareJob) -> None:
        self.ledger.do([("HSET", Keys.jobs, job.key, "asked for")])
        self._send(task, SCORE, {"job": job.model_dump(mode="json")}, job.key.replace(":", "-"), f"task={job.task}")

    def _answers(self, kind: type[Answer], keys: Sequence[str], timeout: float) -> list[Answer]:
        """Wait for the answers to these jobs and take them out, as an orchestrator would."""
        deadline, run, count = time.monotonic() + timeout, keys[0].split(":")[1], len(keys)
        while True:
            while int(self.redis.llen(Keys.inbox)) < count and time.monotonic() < deadline:
                time.sleep(0.02)
            texts: list[str] = self.redis.lrange(Keys.inbox, 0, -1)  # type: ignore[assignment]
            events = [event for event in map(EVENT.validate_json, texts) if event.run == run]
            found = [event for event in events if isinstance(event, kind)]
            if len(found) >= count:
                done: list[Command] = [("HDEL", hashed, *keys) for hashed in (Keys.jobs, Keys.claims)]
                self.ledger.do([*done, ("DEL", Keys.inbox)])
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} answers\n{self.logs()[-3000:]}"
            time.sleep(0.02)
