"""Loads a Qwen-Image-Edit pipeline, or says in one sentence why not."""

import importlib.util
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError, DeviceError, MissingDependency
from shared.settings.qwen import PINNED_REVISIONS, QwenSettings
from workers.generation import memory

_log = logging.getLogger(__name__)
_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*/*.safetensors"]
_NEEDED = ("torch", "diffusers", "transformers", "accelerate", "safetensors")


def require_packages() -> None:
    """Raises MissingDependency, naming the extra, when a package the pipeline needs is not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingDependency(
            f"qwen-image-edit needs {', '.join(missing)}: pip install 'inpaint-eacps[qwen]', "
            "with the torch and torchvision builds of your CUDA version."
        )


def _require_for(setting: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingDependency(f"generation.qwen.{setting} needs {package}: pip install 'inpaint-eacps[qwen-speed]'.")


def checkpoint_folder(settings: QwenSettings) -> Path:
    """The folder of the checkpoint: the configured one, or the hub's snapshot, downloaded if need be.

    A Hugging Face token, where one is needed, is taken from HF_TOKEN or the login by the hub's own library.
    Raises ConfigurationError or DeviceError with the fix.
    """
    local = Path(settings.model).expanduser()
    if local.is_dir():
        if not (local / "model_index.json").is_file():
            raise ConfigurationError(
                f"generation.qwen.model: {local} has no model_index.json, so it is no diffusers checkpoint."
            )
        return local
    if settings.model.startswith((".", "/", "~")) or settings.model.count("/") != 1:
        raise ConfigurationError(
            f"generation.qwen.model: there is no folder {settings.model}; give an existing one or a hub id owner/name."
        )
    if settings.model not in PINNED_REVISIONS and not settings.accept_other_license:
        raise ConfigurationError(
            f"generation.qwen.model: {settings.model} is none of the Apache-2.0 models "
            f"{', '.join(PINNED_REVISIONS)}; read its licence, then set generation.qwen.accept_other_license."
        )
    return _snapshot(settings)


def _snapshot(settings: QwenSettings) -> Path:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    revision = settings.pinned_revision
    if revision is None:
        _log.warning("no revision is pinned for %s", settings.model, extra={"action": "qwen.unpinned"})
    what = f"{settings.model} at revision {revision or 'main'}"
    try:
        return Path(
            huggingface_hub.snapshot_download(
                settings.model,
                revision=revision,
                local_files_only=settings.local_files_only,
                allow_patterns=_FILES,
            )
        )
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            f"{settings.model} is gated: accept its terms on its page at the hub, and set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigurationError(
            f"the hub has no {what}; correct generation.qwen.revision, or leave it unset for the pinned one."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"the hub has no {settings.model}, or it is private: correct generation.qwen.model, or set HF_TOKEN."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "downloads are off" if settings.local_files_only else "the hub cannot be reached"
        raise DeviceError(
            f"{what} is not in the Hugging Face cache, and {why}; connect to the network, or run "
            f"`hf download {settings.model} --revision {revision or 'main'}` where there is one and copy HF_HOME."
        ) from error
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DeviceError(
            f"{what} could not be downloaded ({type(error).__name__}); check the network and the free disk, then retry."
        ) from error


def load_pipeline(settings: QwenSettings, device: str, components: Mapping[str, Any]) -> Any:
    """The pipeline on `device`, with the configured speed options on, and `components` in place of the checkpoint's.

    Raises ConfigurationError, DeviceError or MissingDependency with the fix.
    """
    folder = checkpoint_folder(settings)
    weights = memory.weights_bytes(folder)
    if weights == 0:
        raise ConfigurationError(f"{folder} holds no *.safetensors weights; download the checkpoint again.")
    _check_memory(settings, device, folder, weights)
    pipe = from_folder(folder, settings, device, components)
    speed_up(pipe, settings, device)
    return pipe


def from_folder(folder: Path, settings: QwenSettings, device: str, components: Mapping[str, Any]) -> Any:
    """Read the weights of a checkpoint folder and put them on `device`."""
    import torch
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    on_cpu = device == "cpu"
    auto = torch.float32 if on_cpu else torch.bfloat16
    dtype = auto if settings.dtype == "auto" else getattr(torch, settings.dtype)
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, **components)
    except ImportError as error:
        first_line = str(error).strip().partition("\n")[0]
        raise MissingDependency(
            f"qwen-image-edit: {first_line} (the text encoder's processor needs torchvision): "
            "pip install 'inpaint-eacps[qwen]'."
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigurationError(
            f"{folder} cannot be loaded as a diffusers checkpoint ({first_line}); delete it and download it again."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    if pipe.text_encoder is not None and settings.text_encoder == "offload":
        pipe.transformer.to(device)
        pipe.vae.to(device)
    else:
        pipe.to(device)
    return prepared(pipe, settings)


def prepared(pipe: Any, settings: QwenSettings) -> Any:
    """A pipeline whose callbacks may see the velocity, and whose VAE tiles if asked to."""
    pipe._callback_tensor_inputs = ["latents", "prompt_embeds", "noise_pred"]
    if settings.vae_tiling:
        pipe.vae.enable_tiling()
    return pipe


def _check_memory(settings: QwenSettings, device: str, folder: Path, weights: int) -> None:
    if not device.startswith("cuda"):
        return
    if settings.text_encoder == "offload":
        weights -= memory.weights_bytes(folder / "text_encoder")
    index = int(device.partition(":")[2] or 0)
    memory.check(
        memory.gpu_memory(index),
        device=device,
        weights=weights,
        headroom=int(settings.memory_headroom_gib * memory.GIB),
    )


def speed_up(pipe: Any, settings: QwenSettings, device: str) -> None:
    """Turn on the configured speed options. Raises ConfigurationError or MissingDependency for one that is absent."""
    if settings.lora:
        _load_lora(pipe, settings)
    if settings.fp8:
        _to_fp8(pipe, device)
    if settings.attention_backend:
        try:
            pipe.transformer.set_attention_backend(settings.attention_backend)
        except (ValueError, RuntimeError, ImportError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ConfigurationError(
                f"generation.qwen.attention_backend: {settings.attention_backend} cannot be used here: {first_line}"
            ) from error
    if settings.first_block_cache:
        from diffusers import FirstBlockCacheConfig

        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=settings.first_block_cache))
    if settings.compile:
        pipe.transformer.compile_repeated_blocks(fullgraph=True)


def _load_lora(pipe: Any, settings: QwenSettings) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    _require_for("lora", "peft")
    try:
        pipe.load_lora_weights(
            settings.lora, weight_name=settings.lora_weight_name, local_files_only=settings.local_files_only
        )
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigurationError(f"generation.qwen.lora: {settings.lora} cannot be loaded: {first_line}") from error
    if settings.lightning:
        # The schedule the Lightning LoRAs were distilled with (their README): a constant shift of log 3, no terminal.
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            pipe.scheduler.config, base_shift=math.log(3), max_shift=math.log(3), shift_terminal=None
        )


def _to_fp8(pipe: Any, device: str) -> None:
    _require_for("fp8", "torchao")
    import torch
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    if not device.startswith("cuda") or torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigurationError(f"generation.qwen.fp8: {device} has no float8 matrix units; turn it off.")

    def is_block_linear(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and name.startswith("transformer_blocks.") and "_mod." not in name

    quantize_(pipe.transformer, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), is_block_linear)
