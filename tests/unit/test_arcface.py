"""The judge arcface on small ONNX models of the real kinds: a detector of red squares, a recogniser of colours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.judge_support import context
from workers.scoring.arcface import ArcFaceScorer, to_score
from workers.scoring.base import ScoreRequest
from workers.scoring.registry import make_scorer

onnx = pytest.importorskip("onnx")
pytest.importorskip("insightface")

#: InsightFace calls scikit-image by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")

#: Of a face in the 112 x 112 template, in cells of 32 pixels around its centre.
_POINTS = [(-0.51, -0.13), (0.5, -0.13), (0.0, 0.5), (-0.4, 1.1), (0.41, 1.1)]


def detector() -> Any:
    """SCRFD's nine outputs (strides 8, 16, 32; two anchors). Only stride 32 ever fires: where a cell is red."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, outputs = [], [], []

    def head(stride: int, kind: str, width: int, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        name = f"{kind}_{stride}"
        constants.extend(
            [
                numpy_helper.from_array(weight.reshape(*weight.shape, 1, 1), f"{name}_w"),
                numpy_helper.from_array(bias, f"{name}_b"),
                numpy_helper.from_array(np.array([-1, width], np.int64), f"{name}_shape"),
            ]
        )
        nodes.append(helper.make_node("Conv", [f"pool_{stride}", f"{name}_w", f"{name}_b"], [f"{name}_conv"]))
        last = f"{name}_conv"
        if kind == "score":
            nodes.append(helper.make_node("Sigmoid", [last], [f"{name}_sigmoid"]))
            last = f"{name}_sigmoid"
        nodes.append(helper.make_node("Transpose", [last], [f"{name}_last"], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]))

    strides = (8, 16, 32)
    for stride in strides:
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"pool_{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
    red = np.array([[20.0, -10.0, -10.0], [0, 0, 0]], np.float32)
    for stride in strides:
        fires = stride == 32
        head(stride, "score", 1, red * fires, np.array([-20.0, -30.0], np.float32))
    for stride in strides:
        head(stride, "box", 4, np.zeros((8, 3), np.float32), np.full(8, 1.5, np.float32))
    for stride in strides:
        points = np.tile(np.array(_POINTS, np.float32).ravel(), 2)
        head(stride, "points", 10, np.zeros((20, 3), np.float32), points)
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph(nodes, "detector", [picture], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def recogniser() -> Any:
    """The colours of a face in a 4 x 4 grid, as an embedding of 48 numbers."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("AveragePool", ["input"], ["pool"], name="pool", kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["pool"], ["embedding"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, 48])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("insightface")
    folder = root / "models" / "tiny"
    folder.mkdir(parents=True)
    onnx.save(detector(), str(folder / "det.onnx"))
    onnx.save(recogniser(), str(folder / "rec.onnx"))
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
