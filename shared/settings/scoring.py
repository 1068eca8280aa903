"""Settings of the judges and of how their scores are combined."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from shared.settings.base import Section
from shared.settings.judges import ArcFaceSettings, ClipSettings, GeminiSettings, LpipsSettings, MoondreamSettings


class ScoringSettings(Section):
    """Who judges, and how judgements become one potential."""

    judges: Annotated[
        tuple[str, ...],
        Field(
            description="Judges in order of preference: `auto`, registry names (`local`, `gemini`, …), or "
            "`package.module:Class`. A criterion that the first cannot judge falls to the next."
        ),
    ] = ("auto",)
    potential: Annotated[
        Mapping[str, float],
        Field(description="Weights of the potential (alpha: consistency, beta: quality, gamma: identity)."),
    ] = {"consistency": 1.0, "quality": 1.0, "identity": 2.0}
    on_failure: Annotated[
        Literal["missing", "fail", "default"],
        Field(
            description="When a criterion cannot be judged: leave it missing, end the run, or use a flagged default."
        ),
    ] = "missing"
    gemini: GeminiSettings = Field(default_factory=GeminiSettings)
    moondream: MoondreamSettings = Field(default_factory=MoondreamSettings)
    arcface: ArcFaceSettings = Field(default_factory=ArcFaceSettings)
    clip: ClipSettings = Field(default_factory=ClipSettings)
    lpips: LpipsSettings = Field(default_factory=LpipsSettings)
