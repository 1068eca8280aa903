"""Make one picture of a finished task: init, mask, character, every candidate with its potential, and the result.

python examples/collage.py outputs/inpaint_eacps/task_<id> docs/result.png
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, TALLEST, GAP, CAPTION = 1240, 300, 10, 26
INK, SOFT, PAPER, SUNK, BEST = "#16191f", "#5c6675", "#ffffff", "#eceff4", "#0f7b4f"
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cell:
    """A picture and what stands below it."""

    image: Image.Image
    caption: str
    aside: str = ""
    best: bool = False


def collage(folder: Path) -> Image.Image:
    """The picture of the task in `folder` (as `inpaint-eacps run` left it). Raises OSError when a file is missing."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    best, candidates = metrics["best_id"], metrics["candidates"]
    box = _region(metrics["inputs"])
    top = [
        Cell(_open(folder / "init.png"), "init"),
        Cell(_masked(folder), "mask"),
        Cell(_open(folder / "character.png"), f"character: {metrics['character_name']}"),
    ]
    if best is not None:
        top.append(Cell(_open(folder / "result.png"), f"result: {metrics['best_potential']:.2f}", best, best=True))
    columns = max(4, min(8, -(-len(candidates) // 2)))
    cells = [_candidate(folder, candidate, best, box) for candidate in candidates]
    rows = [_row(cells) for cells in (top, *(cells[at : at + columns] for at in range(0, len(cells), columns)))]
    sheet = Image.new("RGB", (WIDTH + 2 * GAP, sum(row.height + GAP for row in rows) + GAP), PAPER)
    y = GAP
    for row in rows:
        sheet.paste(row, ((sheet.width - row.width) // 2, y))
        y += row.height + GAP
    return sheet


def _candidate(folder: Path, candidate: dict[str, Any], best: str | None, box: Box) -> Cell:
    potential = candidate["potential"]
    state = "unscored" if candidate["state"] == "scored" else candidate["state"]
    caption = f"{candidate['id']}   {state if potential is None else format(potential, '.2f')}"
    if candidate["image"] is None:
        return Cell(Image.new("RGB", (box[2] - box[0], box[3] - box[1]), SUNK), caption)
    image = _open(folder / "candidates" / Path(candidate["image"]["name"]).name).crop(box)
    aside = f"from {candidate['parent']}" if candidate["parent"] else ""
    return Cell(image, caption, aside, best=candidate["id"] == best)


def _row(cells: Sequence[Cell]) -> Image.Image:
    """The cells side by side, all of one height, as wide as the sheet if that does not make them too tall."""
    room = WIDTH - GAP * (len(cells) - 1)
    height = min(int(room / sum(cell.image.width / cell.image.height for cell in cells)), TALLEST)
    drawn = [_draw(cell, height) for cell in cells]
    row = Image.new("RGB", (sum(one.width + GAP for one in drawn) - GAP, height + CAPTION), PAPER)
    x = 0
    for one in drawn:
        row.paste(one, (x, 0))
        x += one.width + GAP
    return row


def _draw(cell: Cell, height: int) -> Image.Image:
    width = max(int(cell.image.width * height / cell.image.height), 1)
    picture = Image.new("RGB", (width, height + CAPTION), PAPER)
    picture.paste(cell.image.resize((width, height), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(picture)
    if cell.best:
        draw.rectangle((0, 0, width - 1, height - 1), outline=BEST, width=4)
    draw.text((2, height + 6), cell.caption, fill=BEST if cell.best else INK, font=ImageFont.load_default(15))
    draw.text((width - 2, height + 8), cell.aside, fill=SOFT, font=ImageFont.load_default(12), anchor="ra")
    return picture


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _masked(folder: Path) -> Image.Image:
    """The init image, its masked part tinted."""
    init = _open(folder / "init.png")
    with Image.open(folder / "mask.png") as image:
        alpha = image.convert("L").point(lambda value: round(value * 0.55))
    return Image.composite(Image.new("RGB", init.size, "#ff4060"), init, alpha)


def _region(inputs: dict[str, Any]) -> Box:
    """The mask and its surroundings: what differs between candidates."""
    left, top, right, bottom = inputs["mask_box"]
    margin = max(right - left, bottom - top) // 3 + 8
    return (
        max(left - margin, 0),
        max(top - margin, 0),
        min(right + margin, inputs["width"]),
        min(bottom + margin, inputs["height"]),
    )


def main(arguments: list[str]) -> int:
    """Write the collage of a task's folder to a file."""
    if len(arguments) != 2:
        sys.stderr.write(__doc__ or "")
        return 2
    target = Path(arguments[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    collage(Path(arguments[0])).save(target, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
