"""Settings of the judges that need more than a name."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shared.settings.base import Section

#: Families of Gemini models that answer no more, by prefix (the longer first), and who took their place.
#: Source: https://ai.google.dev/gemini-api/docs/deprecations, read in November 2026.
RETIRED_MODELS = (
    ("gemini-2.0-flash-lite", "gemini-3.5-flash-lite"),
    ("gemini-2.0-pro", "gemini-3.1-pro-preview"),
    ("gemini-2.0", "gemini-3.8-flash"),
    ("gemini-1.5-pro", "gemini-3.1-pro-preview"),
    ("gemini-1.5-flash-8b", "gemini-3.5-flash-lite"),
    ("gemini-1.5", "gemini-3.8-flash"),
    ("gemini-1.0", "gemini-3.8-flash"),
    ("gemini-pro", "gemini-3.1-pro-preview"),
)


class RateLimitSettings(Section):
    """How fast a remote judge is asked, all processes together. The limits hold in every window, wherever it starts."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000, description="Calls per minute at most.")] = 150
    tokens_per_minute: Annotated[
        int | None, Field(ge=1, description="Input tokens per minute at most; unset means no such limit.")
    ] = None
    burst: Annotated[
        int | None,
        Field(ge=1, description="Calls that may start at once after a pause; unset means a twentieth of the limit."),
    ] = None
    window: Annotated[
        float, Field(gt=0, le=3600, description="Seconds that the limits are counted over (a service's minute).")
    ] = 60.0
    slack: Annotated[
        float,
        Field(ge=0, le=60, description="Seconds that a call may be late on its way without breaking the limit."),
    ] = 1.0


class BudgetSettings(Section):
    """What one run may spend on a judge. Counted before each call, so it is never exceeded."""

    max_calls: Annotated[int | None, Field(ge=0, description="Calls at most; unset means no such limit.")] = None
    max_cost: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="US dollars at most; unset means no such limit."),
    ] = None


class RetrySettings(Section):
    """What happens when a remote judge does not answer."""

    timeout: Annotated[float, Field(gt=0, le=3600, description="Seconds one call may take.")] = 90.0
    max_attempts: Annotated[
        int, Field(ge=1, le=100, description="Calls for one answer when the service fails or does not answer.")
    ] = 6
    backoff: Annotated[
        float, Field(gt=0, le=600, description="Longest wait before the second attempt, in seconds; then it doubles.")
    ] = 1.0
    backoff_max: Annotated[float, Field(gt=0, le=3600, description="Longest wait between two attempts.")] = 30.0
    patience: Annotated[
        float,
        Field(gt=0, description="Seconds after which no further attempt at a judgement begins; below score_timeout."),
    ] = 480.0
    stopped_for: Annotated[
        float,
        Field(gt=0, description="Seconds that a judge stays stopped after it refused (a wrong key, a wrong model)."),
    ] = 3600.0


class GeminiSettings(Section):
    """The judge `gemini`. Its key comes from GEMINI_API_KEY, GOOGLE_API_KEY or a file, never from a flag."""

    sdk: Annotated[
        Literal["genai", "generativeai"],
        Field(description="Client: google-genai, or google-generativeai (its support has ended)."),
    ] = "genai"
    model: Annotated[
        str, Field(pattern=r"^(models/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Model that judges.")
    ] = "gemini-3.8-flash"
    api_key_file: Annotated[Path | None, Field(description="File that holds the API key and nothing else.")] = None
    base_url: Annotated[
        str | None,
        Field(pattern=r"^https?://[^\s@]+$", description="Another address of the service; unset means Google's own."),
    ] = None
    samples: Annotated[int, Field(ge=1, le=16, description="Answers asked for and averaged for one judgement.")] = 1
    thinking_level: Annotated[
        Literal["low", "medium", "high"] | None,
        Field(description="How long Gemini 3 and newer think; unset leaves it to the model."),
    ] = "low"
    media_resolution: Annotated[
        Literal["low", "medium", "high"] | None,
        Field(description="How many tokens an image becomes; unset leaves it to the model."),
    ] = None
    max_output_tokens: Annotated[
        int, Field(ge=64, le=65536, description="Longest answer, thoughts included; also what a call may cost.")
    ] = 4096
    image_tokens: Annotated[
        int, Field(ge=1, le=100_000, description="Tokens of one image at most, for limits and budget before a call.")
    ] = 1120
    max_side: Annotated[int, Field(ge=64, le=4096, description="Longer side of the images sent, in pixels.")] = 1024
    price_input: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="US dollars per million input tokens; unset: the list price."),
    ] = None
    price_output: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="US dollars per million output tokens; unset: the list price."),
    ] = None
    limits: RateLimitSettings = Field(default_factory=RateLimitSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)

    @field_validator("model")
    @classmethod
    def _model_is_alive(cls, model: str) -> str:
        name = model.removeprefix("models/")
        for prefix, successor in RETIRED_MODELS:
            if re.match(rf"{re.escape(prefix)}([-.@]|$)", name):
                raise ValueError(f"{name} has been shut down; use its successor {successor}")
        return name


class MoondreamSettings(Section):
    """The judge `moondream`: a small model that runs here or behind HTTP."""

    mode: Annotated[
        Literal["http", "local"],
        Field(description="Ask a Moondream server, or load the model in the score worker (needs transformers 4.x)."),
    ] = "http"
    base_url: Annotated[
        str, Field(pattern=r"^https?://[^\s@]+$", description="Address of the server: Moondream's own, or a Station.")
    ] = "https://api.moondream.ai/v1"
    api_key_file: Annotated[Path | None, Field(description="File with the key; else MOONDREAM_API_KEY, if set.")] = None
    model: Annotated[str, Field(min_length=1, description="Model of the local mode: a repository or a folder.")] = (
        "vikhyatk/moondream2"
    )
    revision: Annotated[str, Field(description="Revision of the local model.")] = "2025-06-21"
    device: Annotated[str, Field(description="Device of the local model: cpu, cuda, cuda:1, mps.")] = "cpu"
    max_side: Annotated[int, Field(ge=64, le=4096, description="Longer side of the images asked about.")] = 1024
    verify_below: Annotated[
        float | None,
        Field(ge=0, le=10, description="Identity below this marks the candidate as unverified; unset: no check."),
    ] = None
    verified_cap: Annotated[
        float, Field(ge=0, le=10, description="What the identity of an unverified candidate is capped to.")
    ] = 3.0
    limits: RateLimitSettings = Field(default_factory=RateLimitSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)


class ArcFaceSettings(Section):
    """The judge `arcface`: cosine similarity of faces. InsightFace's models are for non-commercial research only."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", description="InsightFace model pack.")] = "buffalo_l"
    root: Annotated[Path, Field(description="Folder in which `models/<pack>` lies.")] = Path("~/.insightface")
    device: Annotated[Literal["cpu", "cuda"], Field(description="Where the models run.")] = "cpu"
    detection_size: Annotated[
        int, Field(ge=64, le=2048, multiple_of=32, description="Side of the detector's input.")
    ] = 640
    detection_threshold: Annotated[
        float, Field(gt=0, lt=1, description="How sure the detector must be that something is a face.")
    ] = 0.5
    zero_at: Annotated[float, Field(ge=-1, le=1, description="Cosine similarity that scores 0.")] = 0.0
    ten_at: Annotated[float, Field(ge=-1, le=1, description="Cosine similarity that scores 10; linear between.")] = 0.7

    @model_validator(mode="after")
    def _curve_rises(self) -> Self:
        if self.zero_at >= self.ten_at:
            raise ValueError(f"zero_at ({self.zero_at}) must be below ten_at ({self.ten_at})")
        return self


class ClipSettings(Section):
    """The judge `clip`: agreement of text and images in CLIP's embedding (cosine similarity, 0 to 1)."""

    model: Annotated[str, Field(min_length=1, description="CLIP model: a repository or a folder.")] = (
        "openai/clip-vit-base-patch32"
    )
    revision: Annotated[str, Field(description="Revision of the model.")] = "main"
    device: Annotated[str, Field(description="Device: cpu, cuda, cuda:1, mps.")] = "cpu"
    prompt: Annotated[
        str, Field(pattern=r"\{name\}", description="Text that the image is compared with; {name} is the character.")
    ] = "a photo of {name}"


class LpipsSettings(Section):
    """The judge `lpips`: perceptual distance of the result to the init image (0 = same)."""

    net: Annotated[Literal["alex", "vgg", "squeeze"], Field(description="Backbone network.")] = "alex"
    device: Annotated[str, Field(description="Device: cpu, cuda, cuda:1, mps.")] = "cpu"
    max_side: Annotated[int, Field(ge=64, le=4096, description="Longer side of the images compared.")] = 512
