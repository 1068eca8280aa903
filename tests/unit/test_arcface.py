"""The judge arcface on small ONNX models of the real kinds: a detector of red squares, a recogniser of colours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.judge_support import context
from tests.tiny_faces import detector, save_pack
from workers.scoring.arcface import ArcFaceScorer, to_score
from workers.scoring.base import ScoreRequest
from workers.scoring.registry import make_scorer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("insightface")
    save_pack(root / "models" / "tiny")
    return root


def face(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """128 x 128: a red nose (what the detector finds) in a field of one colour, on grey."""
    image = np.full((128, 128, 3), 128, np.uint8)
    image[16:112, 16:112] = colour
    image[64:96, 64:96] = (255, 0, 0)
    return image


def request(character: NDArray[np.uint8], region: NDArray[np.uint8]) -> ScoreRequest:
    init = np.full((256, 256, 3), 100, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[64:192, 64:192] = 255
    result = init.copy()
    result[64:192, 64:192] = region
    rgba = np.dstack([character, np.full(character.shape[:2], 255, np.uint8)])
    return ScoreRequest("run", "1", "g00", "Mira", init, mask, rgba, result, "0" * 64)


@pytest.fixture(scope="module")
def scorer(models: Path) -> ArcFaceScorer:
    arcface = {"root": str(models), "model": "tiny", "detection_size": 192, "zero_at": 0.0, "ten_at": 1.0}
    made = make_scorer("arcface", Settings.model_validate({"scoring": {"arcface": arcface}}), context())
    assert isinstance(made, ArcFaceScorer)
    return made


BLUE, GREEN = (40, 60, 220), (40, 220, 60)
NOBODY = np.full((128, 128, 3), 60, np.uint8)


def test_the_same_face_scores_high_and_another_low(scorer: ArcFaceScorer) -> None:
    same = scorer.score(request(face(BLUE), face(BLUE)))
    other = scorer.score(request(face(BLUE), face(GREEN)))
    assert same.scores["identity"] > 8
    assert other.scores["identity"] < same.scores["identity"] - 3
    assert same.scores["identity"] == pytest.approx(10 * same.measures["face_cosine"])
    assert same.missing == other.missing == {}


@pytest.mark.parametrize(
    ("character", "region", "where"), [(NOBODY, face(BLUE), "character image"), (face(BLUE), NOBODY, "masked region")]
)
def test_no_face_is_missing_with_the_reason(
    scorer: ArcFaceScorer, character: NDArray[np.uint8], region: NDArray[np.uint8], where: str
) -> None:
    judgement = scorer.score(request(character, region))
    assert judgement.scores == {}
    assert where in judgement.missing["identity"]


def test_a_face_that_was_there_before_does_not_count(scorer: ArcFaceScorer) -> None:
    asked = request(face(BLUE), NOBODY)
    result, mask = asked.result.copy(), np.zeros_like(asked.mask)
    result[64:192, 64:192] = face(BLUE)
    mask[64:192, 64:120] = 255
    assert scorer.score(replace(asked, result=result)).scores
    assert "masked region" in scorer.score(replace(asked, result=result, mask=mask)).missing["identity"]


def test_the_curve_is_linear_between_its_ends() -> None:
    assert [to_score(cosine, 0.1, 0.6) for cosine in (-1.0, 0.1, 0.35, 0.6, 1.0)] == pytest.approx([0, 0, 5, 10, 10])


def test_missing_models_are_named_with_what_to_do(tmp_path: Path) -> None:
    settings = Settings.model_validate({"scoring": {"arcface": {"root": str(tmp_path)}}})
    with pytest.raises(ConfigurationError, match="non-commercial"):
        make_scorer("arcface", settings, context()).load()


def test_a_pack_without_a_recogniser_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "half"
    folder.mkdir(parents=True)
    onnx.save(detector(), str(folder / "det.onnx"))
    settings = Settings.model_validate({"scoring": {"arcface": {"root": str(tmp_path), "model": "half"}}})
    with pytest.raises(ConfigurationError, match="recogniser"):
        make_scorer("arcface", settings, context()).load()


def test_a_curve_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ValueError, match="must be below"):
        Settings.model_validate({"scoring": {"arcface": {"zero_at": 0.7, "ten_at": 0.7}}})
