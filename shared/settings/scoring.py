"""Settings of the judges and of how their scores are combined."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, field_validator, model_validator

from shared.settings.base import Section
from shared.settings.judges import ArcFaceSettings, ClipSettings, GeminiSettings, LpipsSettings, MoondreamSettings

#: A criterion (0-10), or the name of a judge's raw measure, such as `lpips`.
TermName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class CriterionSettings(Section):
    """Who judges one criterion. A list of judges alone stands for their order of preference."""

    judges: Annotated[tuple[str, ...], Field(min_length=1, description="Judges, the preferred one first.")]
    combine: Annotated[
        Literal["first", "weighted"],
        Field(description="Take the first judge that has an answer, or the weighted mean of all, who must all answer."),
    ] = "first"
    weights: Annotated[
        Mapping[str, Annotated[FiniteFloat, Field(gt=0, le=1e6)]],
        Field(description="`weighted`: weight of each judge, 1 where none is given."),
    ] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: object) -> object:
        if isinstance(value, str):
            return {"judges": [name.strip() for name in value.split(",")]}
        return {"judges": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _weights_name_judges(self) -> Self:
        if strange := self.weights.keys() - set(self.judges):
            raise ValueError(f"weights name {', '.join(sorted(strange))}, which judges does not list")
        if self.weights and self.combine == "first":
            raise ValueError("weights need `combine: weighted`")
        return self


class GateSettings(Section):
    """Limits of the free checks that come before any judge. All in grey levels, 0-255."""

    outside: Annotated[
        float, Field(ge=0, le=255, description="Greatest difference from the init image outside the mask.")
    ] = 0.0
    seam: Annotated[
        float, Field(ge=0, le=255, description="Strongest jump across the mask edge beyond the scene's own.")
    ] = 60.0
    change: Annotated[
        float, Field(ge=0, le=255, description="Least mean difference from the init image inside the mask.")
    ] = 1.0
    contrast: Annotated[float, Field(ge=0, le=255, description="Least standard deviation inside the mask.")] = 1.5


class ScoringSettings(Section):
    """Who judges, and how judgements become one potential."""

    judges: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Judges in order of preference: `auto`, registry names (`local`, `gemini`, …), or "
            "`package.module:Class`. A criterion that the first cannot judge falls to the next.",
        ),
    ] = ("auto",)
    criteria: Annotated[
        Mapping[TermName, CriterionSettings],
        Field(
            description="Other judges for single criteria: a list in order of preference, or "
            "`{judges, combine: first|weighted, weights}`."
        ),
    ] = {}
    potential: Annotated[
        Mapping[TermName, Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]],
        Field(
            description="Weights of the potential (alpha: consistency, beta: quality, gamma: identity); raw measures "
            "of a judge (`clip_text`, `lpips`) may be named too, and weights may be negative."
        ),
    ] = {"consistency": 1.0, "quality": 1.0, "identity": 2.0}
    combine: Annotated[
        Literal["arithmetic", "geometric"],
        Field(description="Potential as the weighted sum, or as the weighted geometric mean (no negative weights)."),
    ] = "arithmetic"
    on_failure: Annotated[
        Literal["missing", "fail", "default"],
        Field(
            description="When a criterion cannot be judged: leave it missing, end the run, or use a flagged default."
        ),
    ] = "missing"
    default_score: Annotated[
        float, Field(ge=0, le=10, description="Score that `on_failure: default` gives; ranks below every real one.")
    ] = 5.0
    tie_margin: Annotated[
        FiniteFloat,
        Field(ge=0, description="Smallest difference of potentials worth trusting; closer candidates are called tied."),
    ] = 0.0
    finals: Annotated[
        Literal["off", "pairwise"],
        Field(description="Compare the best candidates of a task in pairs, in both orders, and let that decide."),
    ] = "off"
    finals_top: Annotated[int, Field(ge=2, le=16, description="Candidates that reach the finals.")] = 4
    gates: Annotated[bool, Field(description="Sort out broken results by free checks, before any judge is asked.")] = (
        True
    )
    gate: GateSettings = Field(default_factory=GateSettings)
    gemini: GeminiSettings = Field(default_factory=GeminiSettings)
    moondream: MoondreamSettings = Field(default_factory=MoondreamSettings)
    arcface: ArcFaceSettings = Field(default_factory=ArcFaceSettings)
    clip: ClipSettings = Field(default_factory=ClipSettings)
    lpips: LpipsSettings = Field(default_factory=LpipsSettings)

    @field_validator("potential")
    @classmethod
    def _weighs_something(cls, potential: Mapping[str, float]) -> Mapping[str, float]:
        if not any(potential.values()):
            raise ValueError("needs at least one weight that is not 0")
        return potential

    @model_validator(mode="after")
    def _mean_is_defined(self) -> Self:
        negative = sorted(name for name, weight in self.potential.items() if weight < 0)
        if self.combine == "geometric" and negative:
            raise ValueError(
                f"combine: geometric needs weights of 0 or more; {', '.join(negative)} is negative, use arithmetic"
            )
        return self

    @property
    def named_judges(self) -> tuple[str, ...]:
        """Every judge named anywhere (`auto` included), in order of preference."""
        named = (name for criterion in self.criteria.values() for name in criterion.judges)
        return tuple(dict.fromkeys((*self.judges, *named)))
