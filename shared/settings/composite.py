"""Settings of the `composite` generator."""

from typing import Annotated

from pydantic import Field

from shared.settings.base import Section


class CompositeSettings(Section):
    """How widely poses are drawn. Lengths are shares of the size at which the character just fits the mask."""

    scale_min: Annotated[float, Field(gt=0.05, le=1, description="Smallest size that is drawn; 1 just fits.")] = 0.7
    scale_max: Annotated[float, Field(ge=1, le=2, description="Largest size that is drawn; 1 just fits.")] = 1.1
    shift: Annotated[
        float, Field(ge=0, le=1, description="Greatest shift from the resting place, in sizes of the character.")
    ] = 0.15
    rotation: Annotated[float, Field(ge=0, le=180, description="Greatest rotation either way, in degrees.")] = 8.0
    flip: Annotated[bool, Field(description="Draw mirrored poses too, unless a side of the character is cut off.")] = (
        True
    )
    refine_spread: Annotated[
        float,
        Field(gt=0, le=1, description="Standard deviation of a refinement's jitter at strength 1, in ranges."),
    ] = 0.25
    refine_tries: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="Poses near the parent that a refinement draws, to use the one that the mask cuts least.",
        ),
    ] = 6
    reference_size: Annotated[
        int, Field(ge=64, le=4096, description="Longest side, in pixels, to which references are reduced.")
    ] = 640
    cache_tasks: Annotated[int, Field(ge=1, le=10_000, description="Tasks whose cut-outs are kept in memory.")] = 64
