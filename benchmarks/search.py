"""Does local refinement pay? EACPS against best-of-n with the same number of candidates.

    python -m benchmarks.search [--seeds 50] [--processes 2] [--strength 0.55] [--spread 0.25] [--tries 6]

Runs the real generator `composite` and the real judge `local` on `examples/`, without a queue: only the searches
differ. Prints the mean best potential of each, the difference with a 95 % bootstrap interval (over pairs of the same
task and base seed), and how many fresh candidates best-of-n needs to reach the mean of EACPS.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.search import make_search
from shared.settings import Settings
from shared.settings.composite import CompositeSettings
from shared.settings.search import SearchSettings
from shared.types import Candidate, CandidateSpec, CandidateState, Combined, Judgement, ScoreValue
from workers.generation.base import GeneratedImage, GenerationRequest, Parent, TaskImages, Unwatched
from workers.generation.composite import CompositeGenerator
from workers.scoring.base import ScoreRequest
from workers.scoring.local import LocalScorer

EXAMPLES = Path(__file__).parent.parent / "examples"
#: Distance between two base seeds; above the seeds that one search uses.
BASE_STRIDE = 10_000


@dataclass(frozen=True)
class Job:
    """One pair of searches: a task and a base seed."""

    task_id: str
    base_seed: int
    strength: float
    composite: CompositeSettings


@dataclass(frozen=True)
class Outcome:
    """What both searches found."""

    task_id: str
    eacps: float
    best_of_n: float
    #: Potentials of all fresh candidates.
    fresh: tuple[float, ...]
    #: Gain of each refinement over its parent.
    gains: tuple[float, ...]


@dataclass
class Bench:
    """A task with everything already made of it, so that a candidate both searches want is made once."""

    images: TaskImages
    generator: CompositeGenerator
    scorer: LocalScorer
    weights: dict[str, float]
    made: dict[tuple[int, str | None, int | None], tuple[GeneratedImage, float]] = field(default_factory=dict)

    def run(self, settings: SearchSettings) -> tuple[Candidate, ...]:
        """Drive a search to its end."""
        search = make_search(settings)
        history: tuple[Candidate, ...] = ()
        while not (step := search.ask(history)).done:
            known = {candidate.spec.id: candidate for candidate in history}
            history += tuple(self._candidate(spec, known.get(spec.parent or "")) for spec in step.specs)
        return history

    def _candidate(self, spec: CandidateSpec, parent: Candidate | None) -> Candidate:
        _, potential = self.make(spec, None if parent is None else parent.spec)
        return Candidate(spec=spec, state=CandidateState.SCORED, combined=Combined(potential=potential))

    def make(self, spec: CandidateSpec, parent: CandidateSpec | None) -> tuple[GeneratedImage, float]:
        """The image of a spec and its potential."""
        key = (spec.seed, spec.parent, None if parent is None else parent.seed)
        if key not in self.made:
            origin = None
            if parent is not None:
                before = self.make(parent, None)[0]
                origin = Parent(spec=parent, image=before.image, params=before.params, extras={})
            made = self.generator.generate(GenerationRequest(self.images, spec, origin), Unwatched())
            self.made[key] = made, self._potential(made.image)
        return self.made[key]

    def _potential(self, result: NDArray[np.uint8]) -> float:
        judged: Judgement = self.scorer.score(
            ScoreRequest(
                run_id="benchmark",
                task_id=self.images.task_id,
                candidate_id="g00",
                character_name=self.images.character_name,
                init=self.images.init,
                mask=self.images.mask,
                character=self.images.character,
                result=result,
                content_key="0" * 64,
            )
        )
        return sum(weight * judged.scores[name] for name, weight in self.weights.items())


def load_examples() -> Iterator[TaskImages]:
    """The tasks of the example export."""
    for item in json.loads((EXAMPLES / "project-label.json").read_text(encoding="utf-8")):
        data = item["data"]
        init, mask, character = (
            np.asarray(Image.open(EXAMPLES / data[name]).convert(mode))
            for name, mode in (("init_image_url", "RGB"), ("mask_image_url", "L"), ("character_image_url", "RGBA"))
        )
        yield TaskImages(data["id"], data["character_name"], init, mask, character, key=data["id"])


@cache
def _benches() -> dict[str, TaskImages]:
    return {images.task_id: images for images in load_examples()}


@cache
def _tools(composite: CompositeSettings) -> tuple[CompositeGenerator, LocalScorer, Settings]:
    settings = Settings()
    generator, scorer = CompositeGenerator(composite), LocalScorer(settings)
    generator.load()
    scorer.load()
    return generator, scorer, settings


def compare(job: Job) -> Outcome:
    """Both searches on one task from one base seed."""
    generator, scorer, settings = _tools(job.composite)
    bench = Bench(_benches()[job.task_id], generator, scorer, dict(settings.scoring.potential))
    eacps = SearchSettings(name="eacps", base_seed=job.base_seed, strength=job.strength)
    ours = bench.run(eacps)
    theirs = bench.run(SearchSettings(name="best-of-n", base_seed=job.base_seed, n=eacps.budget))
    found = {candidate.spec.id: _known(candidate) for candidate in ours}
    return Outcome(
        task_id=job.task_id,
        eacps=max(found.values()),
        best_of_n=max(_known(candidate) for candidate in theirs),
        fresh=tuple(_known(candidate) for candidate in theirs),
        gains=tuple(found[c.spec.id] - found[c.spec.parent] for c in ours if c.spec.parent),
    )


def _known(candidate: Candidate) -> ScoreValue:
    assert candidate.potential is not None
    return candidate.potential


def bootstrap(differences: NDArray[np.float64], rounds: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (rounds, len(differences)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def expected_best(pool: NDArray[np.float64], n: int) -> float:
    """Mean of the largest of `n` draws, with replacement, from `pool`."""
    values = np.sort(pool)
    ranks = np.arange(1, len(values) + 1) / len(values)
    return float((values * (ranks**n - (ranks - 1 / len(values)) ** n)).sum())


def needed(outcomes: Sequence[Outcome], target: float, most: int = 200) -> int | None:
    """Fewest fresh candidates a task whose expected best, averaged over tasks, reaches `target`."""
    pools = [
        np.array([value for outcome in outcomes if outcome.task_id == task for value in outcome.fresh])
        for task in sorted({outcome.task_id for outcome in outcomes})
    ]
    return next((n for n in range(1, most + 1) if np.mean([expected_best(p, n) for p in pools]) >= target), None)


def report(outcomes: Sequence[Outcome]) -> None:
    """Print the figures."""
    print(f"{'task':>10} {'eacps':>7} {'best-of':>7} {'diff':>6}")
    for task in sorted({outcome.task_id for outcome in outcomes}):
        mine = [outcome for outcome in outcomes if outcome.task_id == task]
        ours, theirs = np.mean([o.eacps for o in mine]), np.mean([o.best_of_n for o in mine])
        print(f"{task:>10} {ours:7.2f} {theirs:7.2f} {ours - theirs:+6.2f}")
    best, baseline = np.array([o.eacps for o in outcomes]), np.array([o.best_of_n for o in outcomes])
    low, high = bootstrap(best - baseline)
    gains = np.concatenate([o.gains for o in outcomes])
    budget = len(outcomes[0].fresh)
    print(f"EACPS            mean best potential {best.mean():.3f}   ({budget} candidates)")
    print(f"best-of-{budget}        mean best potential {baseline.mean():.3f}")
    print(
        f"difference       {(best - baseline).mean():+.3f}   95 % interval [{low:+.3f}, {high:+.3f}], n={len(outcomes)}"
    )
    print(f"refinements      {np.mean(gains > 0):.0%} beat their parent; mean change {gains.mean():+.2f}")
    count = needed(outcomes, float(best.mean()))
    print(f"best-of-n needs  {count if count is not None else 'more than 200'} candidates to reach the mean of EACPS")


def main() -> None:
    """Parse the command line, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="base seeds per task")
    parser.add_argument("--first", type=int, default=5000, help="first base seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--strength", type=float, default=SearchSettings().strength)
    parser.add_argument("--spread", type=float, default=CompositeSettings().refine_spread, help="of a refinement")
    parser.add_argument("--tries", type=int, default=CompositeSettings().refine_tries, help="of a refinement")
    parser.add_argument("--tasks", nargs="*", default=None, help="task ids (all)")
    options = parser.parse_args()
    tasks = options.tasks or list(_benches())
    composite = CompositeSettings(refine_spread=options.spread, refine_tries=options.tries)
    jobs = [
        Job(task, options.first + BASE_STRIDE * index, options.strength, composite)
        for index in range(options.seeds)
        for task in tasks
    ]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        outcomes = pool.map(compare, jobs, chunksize=4)
    report(outcomes)
    print(f"{time.perf_counter() - started:.0f} s, {len(tasks)} tasks x {options.seeds} base seeds")


if __name__ == "__main__":
    main()
