"""The generator `openai-http`: a server that speaks `/v1/images/edits`, used as one device.

vLLM-Omni, SGLang and LightX2V serve this form. They differ in what they honour, and may ignore a field without a word:
so only bytes are sent, never a URL, what comes back is checked, and the mask is applied here.
"""

import base64
import binascii
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from pydantic import JsonValue

from shared.errors import ConfigurationError, Permanent, Retryable
from shared.images import decode, encode_png, to_rgb
from shared.settings.openai_http import OpenAIHttpSettings
from shared.types import Start
from workers.generation import crop, feather, prompting
from workers.generation.base import RGB, Control, GeneratedImage, GenerationRequest, Mask
from workers.generation.crop import Window

_log = logging.getLogger(__name__)
_FIX = {
    401: "set generation.openai_http.api_key or api_key_file",
    403: "this key may not use the server",
    404: "check generation.openai_http.base_url (with /v1) and model",
}


class OpenAIHttpGenerator:
    """Sends the scene, the character and the mask to a server, and puts the answer into the mask."""

    name = "openai-http"

    def __init__(self, settings: OpenAIHttpSettings) -> None:
        self._settings = settings
        self._client: httpx.Client | None = None

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Server, model and every setting that changes what is drawn; no key."""
        hidden = {"api_key", "api_key_file", "timeout", "max_response_bytes", "size_tolerance"}
        fields: dict[str, JsonValue] = self._settings.model_dump(mode="json", exclude=hidden)
        return fields

    def load(self) -> None:
        """Ask the server for its models. Raises ConfigurationError or Retryable when it cannot be used."""
        self._client = httpx.Client(
            base_url=self._settings.base_url.rstrip("/") + "/",
            headers=self._headers(),
            timeout=httpx.Timeout(self._settings.timeout, connect=min(10.0, self._settings.timeout)),
            follow_redirects=False,
        )
        with _translated(self._settings.base_url):
            answer = self._client.get("models")
        if answer.status_code in (401, 403):
            raise ConfigurationError(_refusal(answer.status_code, self._settings.base_url, ""))
        _log.info("%s answers", self._settings.base_url, extra={"action": "generator.loaded"})

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Ask for one picture. A refinement sends its parent's picture as the scene.

        The server draws whole pictures only: `stop_at` and `resume` raise Permanent. Raises Retryable when the server
        is busy or down, Permanent when it refuses or answers with something else than a fitting picture.
        """
        spec, images, settings = request.spec, request.images, self._settings
        if spec.start is Start.RESUME or spec.stop_at is not None:
            raise Permanent(f"candidate {spec.id}: openai-http cannot stop or resume; turn pruning off")
        scene = images.init
        if spec.start is Start.REFINE:
            if request.parent is None:
                raise Permanent(f"candidate {spec.id} refines a parent, and none was given")
            scene = request.parent.image
        window = crop.window(
            images.mask,
            crop=settings.crop,
            crop_below=settings.crop_below,
            padding=settings.padding,
            max_pixels=settings.max_pixels,
            max_upscale=settings.max_upscale,
        )
        control.step(0, 1)
        started = time.monotonic()
        prompt = prompting.edit_prompt(
            settings.prompt, images.character_name, np.ascontiguousarray(window.cut(images.mask))
        )
        files = [
            ("image", ("scene.png", encode_png(window.shrink(scene)), "image/png")),
            ("image", ("character.png", encode_png(images.character), "image/png")),
        ]
        if settings.send_mask:
            drawn_mask = _shrunk(window, images.mask)
            files.append(("mask", ("mask.png", encode_png(_openai_mask(drawn_mask)), "image/png")))
            files.append(("mask_image", ("mask.png", encode_png(drawn_mask), "image/png")))
        fields = {
            "model": settings.model,
            "prompt": prompt,
            "negative_prompt": settings.negative_prompt,
            "n": "1",
            "size": f"{window.width}x{window.height}",
            "seed": str(spec.seed % 2**31),
            "num_inference_steps": str(settings.steps),
            "true_cfg_scale": str(settings.true_cfg_scale),
            "response_format": "b64_json",
            "output_format": "png",
        }
        if spec.start is Start.REFINE and spec.strength is not None:
            fields["strength"] = str(spec.strength)
        picture = self._ask(fields, files)
        self._check_shape(picture, window)
        control.step(1, 1)
        pasted = images.init.copy()
        window.cut(pasted)[...] = window.expand(picture)
        return GeneratedImage(
            image=feather.composite(images.init, pasted, images.mask, settings.feather),
            params={
                "prompt": prompt,
                "drawn_size": [window.width, window.height],
                "answered_size": [picture.shape[1], picture.shape[0]],
            },
            timings={"request": time.monotonic() - started},
        )

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        key = settings.api_key.get_secret_value() if settings.api_key else None
        if settings.api_key_file is not None:
            try:
                key = settings.api_key_file.expanduser().read_text().strip()
            except OSError as error:
                raise ConfigurationError(
                    f"generation.openai_http.api_key_file: {settings.api_key_file} cannot be read ({error.strerror})"
                ) from error
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _ask(self, fields: dict[str, str], files: list[tuple[str, tuple[str, bytes, str]]]) -> RGB:
        """POST the form and read the picture in the answer, of at most `max_response_bytes`."""
        limit, url = self._settings.max_response_bytes, self._settings.base_url
        body, client = bytearray(), self._client
        if client is None:
            raise Permanent("load() was not called before generate()")
        with _translated(url), client.stream("POST", "images/edits", data=fields, files=files) as answer:
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > limit:
                    raise Permanent(
                        f"{url} answered with more than generation.openai_http.max_response_bytes ({limit})"
                    )
        if answer.status_code != httpx.codes.OK:
            message = _refusal(answer.status_code, url, _said(bytes(body)))
            busy = answer.status_code in (408, 409, 425, 429) or answer.status_code >= 500
            raise Retryable(message) if busy else Permanent(message)
        return _picture(bytes(body), url)

    def _check_shape(self, picture: RGB, window: Window) -> None:
        """Servers may round sizes; another aspect ratio means that something else was drawn."""
        asked, got = window.width / window.height, picture.shape[1] / picture.shape[0]
        if abs(got / asked - 1) > self._settings.size_tolerance:
            raise Permanent(
                f"{self._settings.base_url} drew {picture.shape[1]} x {picture.shape[0]} pixels where "
                f"{window.width} x {window.height} were asked for; it does not honour `size`"
            )
        if int(np.ptp(picture.reshape(-1, 3), axis=0).max()) <= 1:
            raise Permanent(f"{self._settings.base_url} drew one flat colour")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise Retryable(f"{url} did not answer in time; raise generation.openai_http.timeout if it is slow") from error
    except httpx.HTTPError as error:
        raise Retryable(f"{url} cannot be reached ({type(error).__name__}); is the server up?") from error


def _refusal(status: int, url: str, said: str) -> str:
    fix = _FIX.get(status, "")
    return f"{url} answered {status}" + (f": {said}" if said else "") + (f"; {fix}" if fix else "")


def _said(body: bytes) -> str:
    """The server's own words, cut short: they are untrusted."""
    try:
        error: Any = json.loads(body)
    except ValueError:
        error = body.decode("utf-8", "replace")
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or error.get("detail") or ""
    return " ".join(str(error).split())[:200]


def _picture(body: bytes, url: str) -> RGB:
    try:
        data = base64.b64decode(json.loads(body)["data"][0]["b64_json"], validate=True)
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
        raise Permanent(f"{url} answered without data[0].b64_json; it must support response_format=b64_json") from error
    return to_rgb(decode(data, f"the answer of {url}").pixels)


def _shrunk(window: Window, mask: Mask) -> Mask:
    """The mask at the drawing size, 0 or 255."""
    return np.where(window.shrink(mask) > 0, 255, 0).astype(np.uint8)


def _openai_mask(mask: Mask) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """OpenAI's form of a mask: RGBA, transparent where the picture is to be edited."""
    return np.dstack([np.zeros((*mask.shape, 3), np.uint8), 255 - mask])
