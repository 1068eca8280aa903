"""A generator that cannot be loaded, by a fault that nobody foresaw."""

from collections.abc import Mapping

from pydantic import JsonValue

from shared.settings import Settings
from workers.generation.base import Control, GeneratedImage, GenerationRequest


class BrokenGenerator:
    """Raises in `load` what no generator should."""

    name = "tests.broken:BrokenGenerator"

    def __init__(self, settings: Settings, device: str) -> None:
        del settings, device

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Nothing is drawn."""
        return {}

    def load(self) -> None:
        """Raises ZeroDivisionError."""
        raise ZeroDivisionError("a bug")

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Never reached."""
        raise NotImplementedError
