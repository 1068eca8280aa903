"""Latents of Qwen-Image: noise, encoding, decoding, the mask on their grid, and their file.

All latents here are packed as the transformer takes them: batch x tokens x 64, one token per 16 x 16 pixels.
"""

import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from shared.errors import Permanent
from workers.generation.base import RGB, Mask
from workers.generation.crop import Window

FORMAT = "inpaint-eacps-latents-1"
#: Pixels per latent and side.
VAE_FACTOR = 8


@dataclass(frozen=True)
class Stored:
    """A latent at step `step` of `total`, of the trajectory whose noise has seed `seed`."""

    latents: torch.Tensor
    window: Window
    step: int
    total: int
    seed: int
    model: str

    def to_bytes(self) -> bytes:
        """As a safetensors file, which any other GPU can go on from."""
        about = {
            "window": self.window.to_text(),
            "step": self.step,
            "total": self.total,
            "seed": self.seed,
            "model": self.model,
        }
        data: bytes = save(
            {"latents": self.latents.detach().cpu().contiguous()},
            # One entry: safetensors writes several in no fixed order, and equal latents should be equal bytes.
            metadata={FORMAT: json.dumps(about, sort_keys=True)},
        )
        return data

    @classmethod
    def from_bytes(cls, data: bytes, model: str) -> "Stored":
        """The inverse of `to_bytes`. Raises Permanent for a file that is damaged or of another model."""
        try:
            about = _about(data)
            stored = cls(
                latents=load(data)["latents"],
                window=Window.from_text(about["window"]),
                step=int(about["step"]),
                total=int(about["total"]),
                seed=int(about["seed"]),
                model=str(about["model"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise Permanent(f"the parent's latents cannot be read ({error}); generate the parent again") from error
        if stored.model != model:
            raise Permanent(f"the parent's latents are of {stored.model}, and this generator runs {model}")
        tokens = stored.window.width * stored.window.height // (2 * VAE_FACTOR) ** 2
        if stored.latents.ndim != 3 or stored.latents.shape[:2] != (1, tokens):
            raise Permanent(
                f"the parent's latents have shape {tuple(stored.latents.shape)}, not (1, {tokens}, channels)"
            )
        return stored


def _about(data: bytes) -> dict[str, Any]:
    """What `to_bytes` says of its latents: an 8-byte little-endian length, then a JSON header with the metadata."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError("the file is cut short")
    header = json.loads(data[8 : 8 + length])
    found: dict[str, Any] = json.loads(header["__metadata__"][FORMAT])
    return found


def noise(seed: int, window: Window, pipe: Any) -> torch.Tensor:
    """1 x tokens x 64 unit normal noise in float32, drawn on the CPU: the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    rows, columns = window.height // VAE_FACTOR, window.width // VAE_FACTOR
    channels = pipe.transformer.config.in_channels // 4
    plain = torch.randn((1, 1, channels, rows, columns), generator=generator, dtype=torch.float32)
    packed: torch.Tensor = pipe._pack_latents(plain, 1, channels, rows, columns)
    return packed.to(pipe.vae.device)


@torch.no_grad()
def encode(picture: RGB, pipe: Any) -> torch.Tensor:
    """Packed latents (float32) of an RGB picture whose sides are multiples of 16: the mode of the VAE's posterior."""
    height, width = picture.shape[:2]
    pixels = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1)[None, :, None]
    encoded = pipe._encode_vae_image(pixels.to(pipe.vae.device, pipe.vae.dtype), generator=None)
    channels = encoded.shape[1]
    packed: torch.Tensor = pipe._pack_latents(encoded, 1, channels, height // VAE_FACTOR, width // VAE_FACTOR)
    return packed.float()


@torch.no_grad()
def decode(packed: torch.Tensor, window: Window, pipe: Any) -> list[RGB]:
    """RGB pictures of the window's drawing size, one per latent of the batch."""
    unpacked = pipe._unpack_latents(packed.float(), window.height, window.width, pipe.vae_scale_factor)
    shape = (1, pipe.vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(pipe.vae.config.latents_mean, device=packed.device).view(shape)
    deviation = torch.tensor(pipe.vae.config.latents_std, device=packed.device).view(shape)
    scaled = (unpacked * deviation + mean).to(pipe.vae.dtype)
    pictures = []
    for one in scaled.split(1):
        pixels = pipe.vae.decode(one, return_dict=False)[0][0, :, 0].float()
        levels = (pixels * 127.5 + 127.5).nan_to_num().clamp(0, 255).round().to(torch.uint8)
        pictures.append(levels.permute(1, 2, 0).cpu().numpy())
    return pictures


def edit_mask(mask: Mask, window: Window, pipe: Any) -> torch.Tensor:
    """1 x tokens x 64 boolean: the latents that may change. A latent may when any of its 8 x 8 pixels is masked.

    `mask` is that of the whole picture, H x W, 0 or 255.
    """
    inside = window.cut(mask)
    small = cv2.resize(
        np.ascontiguousarray(inside), (window.width, window.height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    rows, columns = window.height // VAE_FACTOR, window.width // VAE_FACTOR
    cells = small.reshape(rows, VAE_FACTOR, columns, VAE_FACTOR).max(axis=(1, 3)) > 0
    ys, xs = np.nonzero(inside)
    # Pixels that the shrinking skipped still open their cell: a thin mask must not vanish.
    cells[ys * rows // inside.shape[0], xs * columns // inside.shape[1]] = True
    channels = pipe.transformer.config.in_channels // 4
    plain = torch.from_numpy(cells)[None, None].expand(1, channels, rows, columns).contiguous()
    packed: torch.Tensor = pipe._pack_latents(plain, 1, channels, rows, columns)
    return packed.to(pipe.vae.device)
