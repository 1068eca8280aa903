"""Small ONNX models with the inputs and outputs of InsightFace's: red squares are faces, colours are identities."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from workers.faces import TEMPLATE

EMBEDDING = 48

#: Of a face in the 112 x 112 template, in cells of 32 pixels around its centre: what the detector always answers.
POINTS = [(-0.51, -0.13), (0.5, -0.13), (0.0, 0.5), (-0.4, 1.1), (0.41, 1.1)]


def detector(firing: int = 32) -> Any:
    """SCRFD's nine outputs (strides 8, 16, 32; two anchors). Only one stride ever fires: where a cell is red.

    The box around such a cell's top left corner reaches 1.5 cells to each side.
    """
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
        fires = stride == firing
        head(stride, "score", 1, red * fires, np.array([-20.0, -30.0], np.float32))
    for stride in strides:
        head(stride, "box", 4, np.zeros((8, 3), np.float32), np.full(8, 1.5, np.float32))
    for stride in strides:
        points = np.tile(np.array(POINTS, np.float32).ravel(), 2)
        head(stride, "points", 10, np.zeros((20, 3), np.float32), points)
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph(nodes, "detector", [picture], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def recogniser(cells: int = 4) -> Any:
    """The colours of a face in a 4 x 4 grid, as an embedding of 48 numbers."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node(
            "AveragePool", ["input"], ["pool"], name="pool", kernel_shape=[112 // cells] * 2, strides=[112 // cells] * 2
        ),
        helper.make_node("Flatten", ["pool"], ["embedding"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, 3 * cells**2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def swapper(
    *, keep: float = 0.0, tint: float = 1.0, marks: bool = False, emap: NDArray[np.float32] | None = None
) -> Any:
    """`inswapper_128`'s inputs, output, and `emap` as its last stored tensor.

    It draws `keep` of the face it is shown, and `tint` of the identity's colour over all of it; with `marks`, one green
    square of 5 x 5 pixels on each point of the template.
    """
    from onnx import TensorProto, helper, numpy_helper

    colours = np.repeat(np.eye(3), EMBEDDING // 3, axis=0) * tint / np.sqrt(EMBEDDING / 3)
    drawn = np.zeros((1, 3, 128, 128), np.float32)
    if marks:
        for column, row in np.rint(TEMPLATE + np.array([8, 0])).astype(int):
            drawn[0, :, row - 2 : row + 3, column - 2 : column + 3] = [[[-9]], [[9]], [[-9]]]
    constants = {
        "colours": colours.astype(np.float32),
        "shape": np.array([1, 3, 1, 1], np.int64),
        "keep": np.array(keep, np.float32),
        "marks": drawn,
        "emap": np.eye(EMBEDDING, dtype=np.float32) if emap is None else emap,
    }
    nodes = [
        helper.make_node("MatMul", ["source", "colours"], ["colour"]),
        helper.make_node("Reshape", ["colour", "shape"], ["tint"]),
        helper.make_node("Mul", ["target", "keep"], ["kept"]),
        helper.make_node("Add", ["kept", "tint"], ["tinted"]),
        helper.make_node("Add", ["tinted", "marks"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "swapper",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, [1, 3, 128, 128]),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, EMBEDDING]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 128, 128])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def save_pack(folder: Path, firing: int = 32) -> Path:
    """Save a detector and a recogniser as a pack, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(detector(firing), str(folder / "det.onnx"))
    onnx.save(recogniser(), str(folder / "rec.onnx"))
    return folder


def save_swapper(file: Path, model: Any = None) -> Path:
    """Save a face swapper, by default one that paints a face in the identity's colour, and return its file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model or swapper(), str(file))
    return file
