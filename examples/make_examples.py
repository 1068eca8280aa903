"""Makes everything in this folder again, from photos that scikit-image and Matplotlib carry in their wheels.

    python -m examples.make_examples [FOLDER]

Needs the extras `cpu` and `calibrate`. Licences: README.md, beside this file.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.settings.composite import CompositeSettings
from shared.types import CandidateSpec
from workers.generation.base import GenerationRequest, TaskImages
from workers.generation.composite import CompositeGenerator

HERE = Path(__file__).parent
Pixels = NDArray[np.uint8]
Points = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Example:
    """One task: a scene, a character, where it may go, and what an annotator said of an earlier result."""

    id: str
    scene: str
    character: str
    character_id: str
    name: str
    #: Outline of the mask, smoothed before it is drawn.
    outline: Points
    #: Seed of the earlier result; `None` if there is none.
    seed: int | None
    choice: str | None
    #: What is wrong with the earlier result, if anything.
    flaw: Callable[[Pixels, Pixels, Pixels], Pixels] | None = None


def main(folder: Path = HERE) -> None:
    """Write scenes, characters, masks, earlier results and the export into `folder`."""
    for name in ("scenes", "characters", "masks", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, scene in scenes().items():
        Image.fromarray(scene).save(folder / "scenes" / name, quality=93)
    for name, character in characters().items():
        Image.fromarray(character).save(folder / "characters" / name, quality=93)
    items = []
    for number, example in enumerate(EXAMPLES, start=1):
        init = np.asarray(Image.open(folder / "scenes" / example.scene).convert("RGB"))
        mask = draw_mask(init.shape[:2], example.outline)
        Image.fromarray(mask).save(folder / "masks" / f"{example.id}.png", optimize=True)
        result = None
        if example.seed is not None:
            result = f"results/{example.id}.webp"
            image = earlier_result(example, init, mask, folder / "characters" / example.character)
            Image.fromarray(image).save(folder / result, lossless=True, method=4)
        items.append(export_item(number, example, result))
    (folder / "project-label.json").write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")


def scenes() -> Mapping[str, Pixels]:
    """The photos that characters are put into, at most 640 pixels long."""
    from skimage import data

    return {
        "launch-pad.jpg": data.rocket(),
        "coffee-table.jpg": data.coffee(),
        "deep-field.jpg": _fit(data.hubble_deep_field(), 600),
        "cat.jpg": data.chelsea(),
        "field.jpg": _grey(data.camera()),
        "bricks.jpg": _grey(data.brick()),
    }


def characters() -> Mapping[str, Pixels]:
    """References: cut-outs with alpha (PNG), and plain photos (JPEG)."""
    import matplotlib
    from skimage import data

    hopper = np.asarray(
        Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    )
    return {
        "collins.png": _fit(_cut(data.astronaut(), COLLINS), 400),
        "chelsea.png": _cut(data.chelsea(), CHELSEA, soft=4.0, refine=False),
        "falcon.png": _cut(data.rocket(), FALCON, refine=False),
        "cup.png": _fit(_cut(data.coffee(), CUP), 360),
        "horse.png": _silhouette(data.horse()),
        "hopper.jpg": _fit(hopper, 480),
        "collins.jpg": _fit(data.astronaut(), 400),
    }


def draw_mask(shape: tuple[int, ...], outline: Points) -> Pixels:
    """White inside the smoothed outline, black elsewhere; points beyond the image run the mask into its border."""
    margin = 200
    canvas = np.zeros((shape[0] + 2 * margin, shape[1] + 2 * margin), np.uint8)
    cv2.fillPoly(canvas, [np.array(outline, np.int32) + margin], 255)
    smooth = cv2.GaussianBlur(canvas, (0, 0), 12)[margin:-margin, margin:-margin]
    return np.where(smooth > 127, 255, 0).astype(np.uint8)


def earlier_result(example: Example, init: Pixels, mask: Pixels, character: Path) -> Pixels:
    """What `data.image_url` points at: one composite candidate, spoilt where the annotator was not satisfied."""
    images = TaskImages(
        task_id=example.id,
        character_name=example.name,
        init=init,
        mask=mask,
        character=np.asarray(Image.open(character).convert("RGBA")),
        key=example.id,
    )
    generator = CompositeGenerator(CompositeSettings())
    generator.load()
    spec = CandidateSpec(id="g00", phase="global", seed=example.seed or 0, order=(0, 0))
    image = generator.generate(GenerationRequest(images=images, spec=spec), _Silent()).image
    return image if example.flaw is None else example.flaw(init, mask, image)


def export_item(number: int, example: Example, result: str | None) -> Mapping[str, object]:
    """One item of a Label Studio JSON export; URLs are relative to the export's own folder."""
    when = f"2025-01-{number:02d}T09:00:00.000000Z"
    annotations = []
    if example.choice is not None:
        verdict = {
            "type": "choices",
            "from_name": "issues",
            "to_name": "final",
            "origin": "manual",
            "value": {"choices": [example.choice]},
        }
        annotations.append(
            {"id": 100 + number, "completed_by": 7, "was_cancelled": False, "lead_time": 8.1, "result": [verdict]}
        )
    return {
        "id": 9000000 + number,
        "inner_id": number,
        "project": 111,
        "file_upload": "examples-batch.json",
        "meta": {},
        "drafts": [],
        "predictions": [],
        "annotations": annotations,
        "data": {
            "id": example.id,
            "character_id": example.character_id,
            "character_name": example.name,
            "character_image_url": f"characters/{example.character}",
            "image_url": result or "",
            "init_image_url": f"scenes/{example.scene}",
            "mask_image_url": f"masks/{example.id}.png",
            "prompt": "check if there is character consistency in the image pairs",
        },
        "created_at": when,
        "updated_at": when,
        "total_annotations": len(annotations),
    }


class _Silent:
    def step(self, done: int, total: int) -> None:
        """Nobody watches."""


def _not_inserted(init: Pixels, mask: Pixels, result: Pixels) -> Pixels:
    return init


def _wrong_colours(init: Pixels, mask: Pixels, result: Pixels) -> Pixels:
    return np.where((mask > 0)[..., None], result[..., ::-1], init).astype(np.uint8)


def _grey(image: Pixels) -> Pixels:
    return np.repeat(image[..., None], 3, axis=2)


def _fit(image: Pixels, longest: int) -> Pixels:
    factor = longest / max(image.shape[:2])
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _silhouette(background: NDArray[np.bool_]) -> Pixels:
    alpha = np.where(background, 0, 255).astype(np.uint8)
    dark = np.broadcast_to(np.array([38, 30, 26], np.uint8), (*alpha.shape, 3))
    return np.dstack([dark, cv2.GaussianBlur(alpha, (0, 0), 0.7)])


def _cut(photo: Pixels, outline: Points, soft: float = 1.0, refine: bool = True) -> Pixels:
    """The part of `photo` along a rough outline, which GrabCut then draws close; cropped, with alpha."""
    height, width = photo.shape[:2]
    rough = np.zeros((height, width), np.uint8)
    cv2.fillPoly(rough, [np.array(outline, np.int32)], 255)
    if refine:
        band = max(3, min(height, width) // 60)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
        labels = np.where(rough > 0, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        labels[(cv2.dilate(rough, kernel) > 0) & (rough == 0)] = cv2.GC_PR_BGD
        labels[cv2.erode(rough, kernel, iterations=2, borderValue=255) > 0] = cv2.GC_FGD
        cv2.setRNGSeed(0)
        cv2.grabCut(photo, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        rough = np.where((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
        rough = cv2.medianBlur(rough, 5)
    alpha = cv2.GaussianBlur(rough, (0, 0), soft)
    left, top, wide, tall = cv2.boundingRect((alpha > 25).astype(np.uint8))
    return np.dstack([photo, alpha])[top : top + tall, left : left + wide]


COLLINS: Points = (
    (150, 90), (165, 40), (205, 14), (262, 18), (302, 60), (302, 118), (272, 140), (272, 165), (300, 190), (306, 250),
    (298, 288), (342, 312), (362, 350), (378, 360), (410, 342), (450, 352), (485, 395), (502, 440), (512, 465),
    (512, 512), (40, 512), (20, 490), (30, 390), (55, 300), (115, 238), (110, 200), (140, 160), (192, 150), (184, 130),
    (156, 126),
)  # fmt: skip
CHELSEA: Points = (
    (40, 60), (48, -20), (345, -20), (366, 60), (362, 130), (344, 196), (322, 236), (276, 280), (250, 284), (200, 262),
    (130, 210), (62, 140),
)  # fmt: skip
FALCON: Points = (
    (308, 412),
    (313, 190),
    (310, 150),
    (317, 132),
    (323, 124),
    (329, 132),
    (335, 150),
    (333, 190),
    (336, 412),
)
CUP: Points = (
    (78, 235), (84, 185), (120, 130), (176, 108), (168, 62), (195, 30), (240, 14), (300, 14), (370, 32), (402, 74),
    (415, 62), (426, 80), (424, 110), (460, 145), (480, 215), (470, 280), (430, 340), (370, 376), (300, 390),
    (235, 384), (170, 356), (110, 300),
)  # fmt: skip

EXAMPLES: Sequence[Example] = (
    Example(
        "71651078", "launch-pad.jpg", "collins.png", "CHA0001", "Eileen Collins",
        ((20, 500), (10, 300), (70, 210), (90, 120), (150, 90), (215, 115), (235, 200), (300, 290), (310, 500)),
        5000, "No Issues",
    ),
    Example(
        "71651079", "coffee-table.jpg", "chelsea.png", "CHA0002", "Chelsea",
        ((400, -80), (400, 20), (430, 90), (480, 180), (540, 200), (590, 140), (600, 60), (600, -80)),
        5031, "No Issues",
    ),
    Example(
        "71651080", "deep-field.jpg", "falcon.png", "CHA0003", "Falcon",
        ((230, 40), (370, 40), (385, 260), (370, 490), (230, 490), (215, 260)),
        5062, "Inconsistent Character", _wrong_colours,
    ),
    Example(
        "71651081", "launch-pad.jpg", "hopper.jpg", "CHA0004", "Grace Hopper",
        ((380, 520), (375, 330), (430, 270), (440, 160), (500, 130), (565, 160), (580, 270), (640, 330), (645, 520)),
        5093, "No Issues",
    ),
    Example(
        "71651082", "cat.jpg", "cup.png", "CHA0005", "Red Cup",
        ((285, 270), (290, 200), (330, 160), (400, 160), (445, 190), (445, 265), (400, 292), (330, 292)),
        5124, "No Issues",
    ),
    Example(
        "71651083", "field.jpg", "horse.png", "CHA0006", "Marauder",
        ((320, 460), (315, 300), (340, 235), (420, 215), (495, 225), (505, 320), (500, 460), (410, 480)),
        None, None,
    ),
    Example(
        "71651084", "bricks.jpg", "collins.jpg", "CHA0001", "Eileen Collins",
        ((60, 600), (60, 400), (120, 330), (150, 200), (230, 160), (310, 200), (330, 320), (400, 400), (410, 600)),
        5000, "Error", _not_inserted,
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
