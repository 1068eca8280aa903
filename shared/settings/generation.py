"""Settings of the generators."""

from typing import Annotated

from pydantic import Field

from shared.settings.base import Section
from shared.settings.composite import CompositeSettings
from shared.settings.insightface import InsightFaceSettings
from shared.settings.openai_http import OpenAIHttpSettings
from shared.settings.qwen import QwenSettings


class GenerationSettings(Section):
    """How images are made."""

    generator: Annotated[
        str,
        Field(
            description="Generator: `auto`, a registry name (`composite`, `qwen-image-edit`, `openai-http`, "
            "`insightface-swap`), or `package.module:Class`."
        ),
    ] = "auto"
    composite: Annotated[CompositeSettings, Field(description="The `composite` generator.")] = CompositeSettings()
    qwen: Annotated[QwenSettings, Field(description="The `qwen-image-edit` generator.")] = QwenSettings()
    openai_http: Annotated[OpenAIHttpSettings, Field(description="The `openai-http` generator.")] = OpenAIHttpSettings()
    insightface: Annotated[InsightFaceSettings, Field(description="The `insightface-swap` generator.")] = (
        InsightFaceSettings()
    )
