"""The wire to Gemini: one question, one answer, through either of Google's clients.

A transport makes exactly one HTTP request per `ask` (the clients' own retries are off) and raises Throttled,
Unreachable or Refused (`workers.scoring.failures`). No message of it holds the API key.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import JsonValue, SecretStr

from shared.errors import MissingDependency
from shared.settings.judges import GeminiSettings
from workers.scoring.failures import Refused, Throttled, Unreachable

_LONGEST_MESSAGE = 400
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")


@dataclass(frozen=True)
class Question:
    """What is asked: instructions, then texts and JPEG images in reading order, and the JSON schema of the answer."""

    instructions: str
    parts: tuple[str | bytes, ...]
    #: JSON Schema of an object; `properties` in the order in which they are to be written.
    schema: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Answer:
    """What came back: the text, why it ended (`STOP` when it is whole), and the tokens it took."""

    text: str
    ended: str
    input_tokens: int
    output_tokens: int
    #: The model that answered, where it says so.
    model: str | None = None


class Transport(Protocol):
    """Asks a model one question, with one HTTP request. Safe to use from many threads."""

    def ask(self, question: Question) -> Answer:
        """Raises Throttled, Unreachable or Refused."""

    def close(self) -> None:
        """Close all connections; the transport is of no use afterwards."""


def make_transport(settings: GeminiSettings, key: SecretStr) -> Transport:
    """The transport of `scoring.gemini.sdk`. Raises MissingDependency when its client is not installed."""
    return GenAI(settings, key) if settings.sdk == "genai" else GenerativeAI(settings, key)


def takes_sampling(model: str) -> bool:
    """Whether a model is of a generation (2.5 and older) that is steered by temperature instead of thinking level."""
    return re.match(r"gemini-[12]\b", model) is not None


class GenAI:
    """google-genai, the client that Google maintains."""

    def __init__(self, settings: GeminiSettings, key: SecretStr) -> None:
        try:
            import httpx
            from google import genai
            from google.genai import types
        except ImportError as error:
            raise MissingDependency(
                "The judge gemini needs google-genai: pip install 'inpaint-eacps[gemini]'."
            ) from error
        self._settings, self._key = settings, key
        # A client of our own: which exceptions a broken connection raises must not depend on what else is installed.
        self._http = httpx.Client(timeout=settings.retry.timeout, follow_redirects=False)
        self._client = genai.Client(
            vertexai=False,
            api_key=key.get_secret_value(),
            http_options=types.HttpOptions(
                base_url=settings.base_url,
                api_version="v1beta",
                timeout=round(settings.retry.timeout * 1000),
                httpx_client=self._http,
            ),
        )

    def close(self) -> None:
        self._client.close()
        self._http.close()

    def ask(self, question: Question) -> Answer:
        import httpx
        from google.genai import errors, types

        contents = [
            types.Part.from_text(text=part)
            if isinstance(part, str)
            else types.Part.from_bytes(data=part, mime_type="image/jpeg")
            for part in question.parts
        ]
        try:
            reply = self._client.models.generate_content(
                model=self._settings.model,
                contents=types.Content(role="user", parts=contents),
                config=types.GenerateContentConfig.model_validate(self._config(question)),
            )
        except errors.APIError as error:
            raise _failure(error.code, str(error.message or error.status), error.details, self._key) from error
        except httpx.HTTPError as error:
            never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            raise _unreachable(error, self._key, billed=not never_sent) from error
        except (errors.UnknownApiResponseError, json.JSONDecodeError, ValueError) as error:
            raise Unreachable("The service's answer cannot be read.", billed=True) from error
        return _answer_of(reply)

    def _config(self, question: Question) -> dict[str, Any]:
        settings = self._settings
        config: dict[str, Any] = {
            "system_instruction": question.instructions,
            "max_output_tokens": settings.max_output_tokens,
            "response_mime_type": "application/json",
            "response_json_schema": dict(question.schema),
        }
        if settings.media_resolution:
            config["media_resolution"] = f"MEDIA_RESOLUTION_{settings.media_resolution.upper()}"
        if takes_sampling(settings.model):
            config["temperature"] = 0.0
        elif settings.thinking_level:
            config["thinking_config"] = {"thinking_level": settings.thinking_level.upper()}
        return config


class GenerativeAI:
    """google-generativeai, whose support ended on 30 November 2025.

    It knows neither thinking levels nor media resolutions; both are left to the model. Nor does its schema know an
    order of properties: that observations come first is for the instructions alone to say.
    """

    def __init__(self, settings: GeminiSettings, key: SecretStr) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own end, which scoring.gemini.sdk's description does
            try:
                import google.generativeai as genai
            except ImportError as error:
                raise MissingDependency(
                    "scoring.gemini.sdk generativeai needs google-generativeai: "
                    "pip install 'inpaint-eacps[gemini-legacy]', or set it to genai."
                ) from error
            options = {"api_endpoint": settings.base_url} if settings.base_url else None
            genai.configure(api_key=key.get_secret_value(), transport="rest", client_options=options)
            from google.generativeai.client import get_default_generative_client
        self._settings, self._key, self._genai = settings, key, genai
        self._client = get_default_generative_client()
        # Its session would ask again, twice, after a 401, as if an API key could be refreshed.
        self._client.transport._session._max_refresh_attempts = 0

    def close(self) -> None:
        self._client.transport.close()

    def ask(self, question: Question) -> Answer:
        import requests
        from google.api_core import exceptions
        from google.protobuf.json_format import ParseError

        model = self._genai.GenerativeModel(self._settings.model, system_instruction=question.instructions)
        model._client = self._client  # the module's own is replaced by whoever configures it next
        parts = [
            part if isinstance(part, str) else {"mime_type": "image/jpeg", "data": part} for part in question.parts
        ]
        try:
            reply = model.generate_content(
                parts,
                generation_config=self._config(question),
                request_options={"timeout": self._settings.retry.timeout, "retry": None},
            )
        except exceptions.GoogleAPICallError as error:
            raise _failure(int(error.code or 0), str(error.message), _details_of(error), self._key) from error
        except requests.RequestException as error:
            never_sent = isinstance(error, requests.ConnectTimeout) or "NewConnectionError" in str(error)
            raise _unreachable(error, self._key, billed=not never_sent) from error
        except (ParseError, ValueError) as error:
            raise Unreachable("The service's answer cannot be read.", billed=True) from error
        return _answer_of(reply._result)

    def _config(self, question: Question) -> dict[str, Any]:
        config: dict[str, Any] = {
            "max_output_tokens": self._settings.max_output_tokens,
            "response_mime_type": "application/json",
            "response_schema": _proto_schema(question.schema),
        }
        if takes_sampling(self._settings.model):
            config["temperature"] = 0.0
        return config


def _proto_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a JSON Schema that the old client's message type knows."""
    kept: dict[str, Any] = {"type": str(schema["type"]).upper()}
    for name in ("description", "enum", "required"):
        if name in schema:
            kept[name] = schema[name]
    if "enum" in schema:
        kept["format"] = "enum"
    if "properties" in schema:
        kept["properties"] = {name: _proto_schema(inner) for name, inner in schema["properties"].items()}
    return kept


def _answer_of(reply: Any) -> Answer:
    """Either client's reply: their objects have the same attributes, some of them unset."""
    usage = reply.usage_metadata
    read = int(getattr(usage, "prompt_token_count", 0) or 0)
    written = int(getattr(usage, "candidates_token_count", 0) or 0)
    # The old client does not know thoughts, which are billed as output: the total does.
    written = max(written, int(getattr(usage, "total_token_count", 0) or 0) - read)
    model = getattr(reply, "model_version", None) or None
    if not reply.candidates:
        reason = getattr(getattr(reply, "prompt_feedback", None), "block_reason", None)
        return Answer("", f"BLOCKED ({_name(reason)})", read, written, model)
    first = reply.candidates[0]
    parts: Sequence[Any] = (first.content.parts if first.content else None) or ()
    text = "".join(part.text or "" for part in parts if not getattr(part, "thought", False))
    return Answer(text, _name(first.finish_reason), read, written, model)


def _name(value: Any) -> str:
    return str(getattr(value, "name", None) or value or "UNSPECIFIED")


def _failure(status: int, message: str, details: Any, key: SecretStr) -> Throttled | Unreachable | Refused:
    words = f"HTTP {status}: {_clean(message, key)}"
    if status == 429:
        return Throttled(words, retry_delay(details))
    if status in {408, 499} or status >= 500:
        return Unreachable(words)
    return Refused(f"{words} {_advice(status)}".strip())


def _advice(status: int) -> str:
    match status:
        case 401 | 403:
            return "Check the API key and what it may do."
        case 404:
            return "Check scoring.gemini.model and scoring.gemini.base_url."
        case 400:
            return "Check the API key and the settings under scoring.gemini."
    return ""


def _unreachable(error: Exception, key: SecretStr, billed: bool) -> Unreachable:
    return Unreachable(f"{type(error).__name__}: {_clean(str(error), key)}", billed)


def _clean(message: str, key: SecretStr) -> str:
    return " ".join(message.replace(key.get_secret_value(), "…").split())[:_LONGEST_MESSAGE]


def retry_delay(details: Any) -> float | None:
    """Seconds of the first `retryDelay` (google.rpc.RetryInfo) anywhere in an error's JSON; `None` without one."""
    if isinstance(details, Mapping):
        if (match := _DURATION.fullmatch(str(details.get("retryDelay", "")))) is not None:
            return float(match[1])
        details = list(details.values())
    if isinstance(details, list | tuple):
        return next((delay for inner in details if (delay := retry_delay(inner)) is not None), None)
    return None


def _details_of(error: Any) -> Any:
    """The old client gives the details of an error as messages, or as the JSON they came as."""
    found: list[Any] = []
    for detail in [*(error.details or ()), *(error.errors or ())]:
        delay = getattr(detail, "retry_delay", None)
        found.append(detail if delay is None else {"retryDelay": f"{delay.seconds + delay.nanos / 1e9:.3f}s"})
    return found
