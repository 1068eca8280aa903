"""Calibration of a run's judges on results that people have judged."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from inpaint_eacps.agreement import (
    Agreement,
    Choice,
    Confusion,
    ReliabilityBin,
    Repeatability,
    agreement,
    confusion,
    reliability,
    repeatability,
)
from inpaint_eacps.human_choices import HumanChoices, Labelled
from orchestrator.potential import combine, next_judges
from shared.errors import InpaintError
from shared.images import decode, to_rgb
from shared.settings import Settings
from shared.types import CRITERIA, Combined, Frozen, Judgement, Usage
from workers.preparation.fetch import Fetcher, shown
from workers.preparation.prepare import prepare
from workers.scoring.base import Scorer, ScoreRequest
from workers.scoring.cache import JudgementCache
from workers.scoring.context import ScoringContext
from workers.scoring.judging import judge_one
from workers.scoring.registry import criteria_of, make_scorer, resolve_auto
from workers.scoring.remote import add

logger = logging.getLogger(__name__)

#: Times that each result is judged: the fewest that say how far a judge agrees with itself.
ROUNDS = 2
_THREADS = 16


class Calibration(Frozen):
    """What is known of the judges after calibration. Potentials as the settings combine them."""

    judges: tuple[str, ...]
    models: Mapping[str, str]
    #: Results with a potential, and those without one (with the reason).
    judged: int
    missing: Mapping[str, str]
    #: Items of the export that could not be used.
    problems: tuple[str, ...]
    #: `potential`, and each criterion or measure by itself; first round only.
    agreement: Mapping[str, Agreement]
    confusion: Confusion | None
    reliability: tuple[ReliabilityBin, ...]
    repeatability: Repeatability | None
    usage: Usage


@dataclass(frozen=True)
class _Rounds:
    """One result in all rounds."""

    choice: Choice
    combined: tuple[Combined, ...]
    judgements: tuple[Judgement, ...]

    @property
    def potentials(self) -> tuple[float, ...]:
        return tuple(each.potential for each in self.combined if each.potential is not None and not each.defaulted)


def calibrate(choices: HumanChoices, settings: Settings, fetcher: Fetcher, context: ScoringContext) -> Calibration:
    """Have every result judged in `ROUNDS` rounds and compare with what people chose.

    Judgements come from the cache where they were made before (each round has its own), and are cached. Gates are
    left out: results of another maker need not keep the pixels outside the mask.
    Raises what loading a judge raises, and BrokerUnreachable.
    """
    names = resolve_auto(settings, context.env)
    scorers = {name: make_scorer(name, settings, context) for name in names}
    for scorer in scorers.values():
        scorer.load()
    cache = JudgementCache(context)
    problems = list(choices.problems)
    rounds: dict[str, _Rounds] = {}

    def judge(labelled: Labelled) -> _Rounds:
        request = _request(labelled, fetcher, context.run_id)
        made = [_judged(scorers, _in_round(request, number), settings, cache) for number in range(ROUNDS)]
        return _Rounds(
            labelled.choice,
            tuple(_combined(judgements, settings) for judgements in made),
            tuple(judgement for judgements in made for judgement in judgements),
        )

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            pending = [(labelled, pool.submit(judge, labelled)) for labelled in choices.labelled]
            for labelled, future in pending:
                try:
                    rounds[labelled.task.id] = future.result()
                except InpaintError as error:
                    problems.append(str(error))
    finally:
        for scorer in scorers.values():
            close: Callable[[], None] | None = getattr(scorer, "close", None)
            if close is not None:
                close()
    return _calibration(names, rounds, problems)


def _calibration(names: tuple[str, ...], rounds: Mapping[str, _Rounds], problems: Sequence[str]) -> Calibration:
    first = {task: one.combined[0] for task, one in rounds.items()}
    potentials = [
        (rounds[task].choice, combined.potential)
        for task, combined in first.items()
        if combined.potential is not None and not combined.defaulted
    ]
    terms = sorted({term for combined in first.values() for term in combined.scores})
    by_term = {
        term: agreement([(rounds[task].choice, c.scores[term]) for task, c in first.items() if term in c.scores])
        for term in terms
    }
    usage = Usage()
    for one in rounds.values():
        for judgement in one.judgements:
            usage = add(usage, judgement.usage)
    return Calibration(
        judges=names,
        models={j.judge: j.model for one in rounds.values() for j in one.judgements if j.model},
        judged=len(potentials),
        missing={
            task: "; ".join(f"{term}: {reason}" for term, reason in combined.missing.items())
            for task, combined in first.items()
            if combined.potential is None
        },
        problems=tuple(problems),
        agreement={"potential": agreement(potentials), **by_term},
        confusion=confusion(potentials),
        reliability=reliability(potentials),
        repeatability=repeatability([one.potentials for one in rounds.values()]),
        usage=usage,
    )


def _judged(
    scorers: Mapping[str, Scorer], request: ScoreRequest, settings: Settings, cache: JudgementCache
) -> tuple[Judgement, ...]:
    """Ask the judges that a run would ask."""
    available = {name: criteria_of(name, settings) for name in scorers}
    judgements: tuple[Judgement, ...] = ()
    while wanted := next_judges(judgements, settings.scoring, available):
        judgements += tuple(judge_one(scorers[name], request, cache) for name in wanted)
    return judgements


def _combined(judgements: Sequence[Judgement], settings: Settings) -> Combined:
    available = {judgement.judge: criteria_of(judgement.judge, settings) for judgement in judgements}
    return combine(judgements, settings.scoring, available)


def _request(labelled: Labelled, fetcher: Fetcher, run_id: str) -> ScoreRequest:
    """Raises InputError or Retryable when an image cannot be had."""
    task = labelled.task
    images = prepare(task, fetcher)
    name = f"task {task.id}: result"
    source = fetcher.fetch(labelled.result, name)
    pixels = to_rgb(decode(source.data, f"{name} ({shown(labelled.result)})", fetcher.limits).pixels)
    height, width = images.mask.shape
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
        logger.warning(
            "%s is resized to the init image's %d x %d.", name, width, height,
            extra={"action": "calibrate.resized", "task": task.id},
        )  # fmt: skip
    arrays = (images.init, images.mask, images.character, pixels)
    content = hashlib.sha256(b"".join(hashlib.sha256(array.tobytes()).digest() for array in arrays)).hexdigest()
    return ScoreRequest(
        run_id=run_id,
        task_id=task.id,
        candidate_id="result",
        character_name=task.character_name,
        init=images.init,
        mask=images.mask,
        character=images.character,
        result=pixels,
        content_key=content,
    )


def _in_round(request: ScoreRequest, number: int) -> ScoreRequest:
    """The same request under another cache key, so that a judge is really asked again."""
    return request if number == 0 else replace(request, content_key=f"{request.content_key}-{number}")


def summary(calibration: Calibration) -> str:
    """For people: a few lines."""
    lines = [
        f"Judges: {', '.join(f'{n} ({m})' if (m := calibration.models.get(n)) else n for n in calibration.judges)}"
    ]
    whole = calibration.agreement["potential"]
    lines.append(f"Results judged: {calibration.judged} ({whole.good} without issues, {whole.bad} with)")
    for term in ("potential", *CRITERIA):
        found = calibration.agreement.get(term)
        if found is None or found.auc is None or found.auc_interval is None:
            continue
        low, high = found.auc_interval
        against = ", ".join(f"{value:.2f} against “{choice}”" for choice, value in found.auc_against.items())
        lines.append(f"AUC of {term}: {found.auc:.2f} (95 %: {low:.2f} to {high:.2f}); {against}")
    if whole.auc is None:
        lines.append("AUC: unknown, since there are not results both with and without issues")
    if table := calibration.confusion:
        lines.append(f"At a potential of {table.threshold:.2f} or more (the best threshold for these very results):")
        lines += [f"  {c:<24} {table.at_or_above[c]:>4} yes {table.below[c]:>4} no" for c in table.at_or_above]
    spread = calibration.repeatability
    if spread is not None and spread.within == 0:
        lines.append("Test-retest: the judges say the same every time, which says nothing about how right they are")
    elif spread is not None:
        lines.append(
            f"Test-retest: a potential moves by {spread.within:.3f} (standard deviation, {spread.results} results "
            f"judged {ROUNDS} times)"
        )
        lines.append(
            f"Smallest difference worth trusting: {spread.smallest_difference:.3f}; to call closer candidates tied: "
            f"--set scoring.tie_margin={spread.smallest_difference:.3f}"
        )
    used = calibration.usage
    if used.calls:
        lines.append(f"Paid: {used.calls} calls, {used.input_tokens + used.output_tokens} tokens, ${used.cost_usd:.4f}")
    lines += [f"Not judged, task {task}: {reason}" for task, reason in calibration.missing.items()]
    lines += [f"Left out: {problem}" for problem in calibration.problems]
    return "\n".join(lines)
