"""Settings shared by the generators that draw with a prompt."""

from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from shared.settings.base import Section

PROMPT_FIELDS = frozenset({"character_name", "region"})


class DrawingSettings(Section):
    """What a diffusion model is told, how large it draws, and how its drawing is blended in."""

    prompt: Annotated[
        str, Field(min_length=1, description="Edit prompt; `{character_name}` and `{region}` (of the mask) are filled.")
    ] = (
        "Picture 1 is the scene, Picture 2 is the character {character_name}. In Picture 1, replace the person in "
        "{region} by the character of Picture 2, with the same face, hair and features as in Picture 2. Keep the pose, "
        "the light, the camera and everything else of Picture 1 unchanged. Realistic skin texture, seamless edges."
    )
    negative_prompt: Annotated[str, Field(description="Negative prompt; one space turns guidance on, as advised.")] = (
        " "
    )
    steps: Annotated[int, Field(ge=2, le=1000, description="Denoising steps of a whole trajectory.")] = 40
    true_cfg_scale: Annotated[
        float, Field(ge=1, le=30, description="Classifier-free guidance; 1 halves the cost and turns it off.")
    ] = 4.0
    max_pixels: Annotated[int, Field(ge=4096, le=2**24, description="Most pixels that are drawn at once.")] = 1024**2
    crop: Annotated[
        Literal["auto", "always", "never"],
        Field(description="Draw only a padded window around the mask; `auto`: when it is below `crop_below`."),
    ] = "auto"
    crop_below: Annotated[float, Field(gt=0, le=1, description="Share of the picture up to which `auto` crops.")] = 0.6
    padding: Annotated[
        float,
        Field(ge=0, le=4, description="Padding of the window on each side, as a share of the mask's longer side."),
    ] = 0.5
    max_upscale: Annotated[
        float, Field(ge=1, le=8, description="The most by which a small window is enlarged for drawing, per side.")
    ] = 2.0
    feather: Annotated[
        int, Field(ge=0, le=512, description="Width in pixels of the blend inside the mask's edge, at the init's size.")
    ] = 8

    @field_validator("prompt")
    @classmethod
    def _known_prompt_fields(cls, prompt: str) -> str:
        fields = {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
        if unknown := fields - PROMPT_FIELDS:
            raise ValueError(f"unknown field {sorted(unknown)} in the prompt; known are {sorted(PROMPT_FIELDS)}")
        return prompt
