"""Settings of the generator `insightface-swap`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.errors import ConfigurationError
from shared.settings.base import Section


class InsightFaceSettings(Section):
    """Face swap with InsightFace. Its models are for non-commercial research only, hence the opt-in."""

    accept_noncommercial: Annotated[
        bool, Field(description="I have read that the InsightFace models are for non-commercial research only.")
    ] = False
    detector_model: Annotated[
        Path,
        Field(description="Folder of the face analysis models (`buffalo_l`): detection and recognition ONNX files."),
    ] = Path("~/.insightface/models/buffalo_l")
    swapper_model: Annotated[Path, Field(description="ONNX file of the face swapper (`inswapper_128`).")] = Path(
        "~/.insightface/models/inswapper_128.onnx"
    )
    detection_size: Annotated[
        int, Field(ge=64, le=2048, multiple_of=32, description="Side of the detector's input.")
    ] = 640
    detection_threshold: Annotated[float, Field(gt=0, lt=1, description="Least confidence of a detected face.")] = 0.5
    feather: Annotated[
        int, Field(ge=0, le=512, description="Width in pixels of the blend inside the mask's edge, at the init's size.")
    ] = 8

    def require_acceptance(self) -> None:
        """Raises ConfigurationError unless the models' licence was accepted."""
        if not self.accept_noncommercial:
            raise ConfigurationError(
                "generation.insightface.accept_noncommercial is false: the models of insightface-swap are for "
                "non-commercial research only; set it to true if that is what you do, or use another generator."
            )
