"""Settings of the generator `qwen-image-edit`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.settings.drawing import DrawingSettings

#: The Apache-2.0 checkpoints and the commit each is pinned to.
PINNED_REVISIONS = {
    "Qwen/Qwen-Image-Edit-2511": "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9",
    "Qwen/Qwen-Image-Edit-2509": "d3968ef930e841f4c73640fb8afa3b306a78167e",
    "Qwen/Qwen-Image-Edit": "ac7f9318f633fc4b5778c59367c8128225f1e3de",
}


class QwenSettings(DrawingSettings):
    """Qwen-Image-Edit through diffusers: what it is told, how large it draws, and how fast."""

    model: Annotated[
        str, Field(min_length=1, description="Hugging Face model id, or the folder of a diffusers checkpoint.")
    ] = "Qwen/Qwen-Image-Edit-2511"
    revision: Annotated[
        str | None, Field(description="Commit of the model; unset means the commit this release was made for.")
    ] = None
    accept_other_license: Annotated[
        bool, Field(description="Allow a hub model other than the three Apache-2.0 ones; its licence is yours to read.")
    ] = False
    local_files_only: Annotated[bool, Field(description="Never download: use what is in the Hugging Face cache.")] = (
        False
    )
    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"], Field(description="Weights' type; `auto`: bfloat16 on a GPU.")
    ] = "auto"
    reference_pixels: Annotated[
        int,
        Field(
            ge=4096, le=2**24, description="Pixels at which each picture is shown to the model (1 MP ~ 4,096 tokens)."
        ),
    ] = 1024**2
    text_encoder: Annotated[
        Literal["keep", "offload"],
        Field(description="After a task's prompt is encoded, keep the text encoder on the GPU or move it to memory."),
    ] = "keep"
    condition_cache: Annotated[
        int, Field(ge=1, le=1024, description="Tasks whose encoded prompt and pictures stay on the device.")
    ] = 16
    vae_tiling: Annotated[bool, Field(description="Encode and decode in tiles: less memory, slightly slower.")] = False
    memory_headroom_gib: Annotated[
        float, Field(ge=0, le=512, description="Free GPU memory asked for beyond the weights, in GiB.")
    ] = 10.0
    compile: Annotated[bool, Field(description="Compile the transformer's blocks (regional `torch.compile`).")] = False
    attention_backend: Annotated[
        str | None, Field(description="diffusers attention backend, such as `_native_cudnn`; unset: its default.")
    ] = None
    first_block_cache: Annotated[
        float | None,
        Field(gt=0, le=1, description="First-block-cache threshold; inexact. Unset: off."),
    ] = None
    fp8: Annotated[
        bool, Field(description="float8 linear layers with torchao; inexact, needs a GPU that has them.")
    ] = False
    lora: Annotated[
        str | None, Field(description="LoRA such as a Lightning one: a folder, a file, or a hub id; unset: none.")
    ] = None
    lora_weight_name: Annotated[str | None, Field(description="File of the LoRA within `lora`.")] = None
    lightning: Annotated[
        bool, Field(description="Scheduler settings of Lightning LoRAs (needs true_cfg_scale 1 and 4 or 8 steps).")
    ] = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lightning and (self.lora is None or self.true_cfg_scale != 1.0):
            raise ValueError("lightning needs a lora and true_cfg_scale 1.0")
        return self

    @property
    def pinned_revision(self) -> str | None:
        """The commit to load: the configured one, else the one this release pins; `None` for unknown models."""
        return self.revision or PINNED_REVISIONS.get(self.model)
