"""Settings of the generator `openai-http`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from shared.settings.drawing import DrawingSettings


class OpenAIHttpSettings(DrawingSettings):
    """A server that speaks `/v1/images/edits` (vLLM-Omni, SGLang, LightX2V), used as one device."""

    base_url: Annotated[str, Field(pattern=r"^https?://", description="URL of the server, up to and with `/v1`.")] = (
        "http://127.0.0.1:8000/v1"
    )
    model: Annotated[str, Field(min_length=1, description="Model name the server knows.")] = "Qwen/Qwen-Image-Edit-2511"
    api_key: Annotated[SecretStr | None, Field(description="Bearer token, if the server asks for one.")] = None
    api_key_file: Annotated[Path | None, Field(description="File that holds the bearer token.")] = None
    send_mask: Annotated[
        bool,
        Field(description="Send the mask too, as `mask` and `mask_image`. Servers may ignore it; we composite anyway."),
    ] = True
    timeout: Annotated[float, Field(gt=0, description="Longest wait for one picture, in seconds.")] = 600.0
    max_response_bytes: Annotated[int, Field(ge=1024, description="Largest answer that is read.")] = 64 * 1024**2
    size_tolerance: Annotated[
        float,
        Field(ge=0, le=1, description="Largest relative difference between the asked and the returned aspect ratio."),
    ] = 0.05
