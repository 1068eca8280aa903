"""Settings of the generator `insightface-swap`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

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
