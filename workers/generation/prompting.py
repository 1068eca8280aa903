"""The edit prompt: names the scene, the character, and where the mask is."""

import re

import cv2

from workers.generation.base import Mask

#: Chat markup of the text encoder, such as `<|im_end|>`, must not come in through a name.
_MARKUP = re.compile(r"<\|[^|>]*\|>")
_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f{}]+")


def plain(text: str) -> str:
    """`text` without chat markup, control characters and braces."""
    previous = None
    while text != previous:
        previous, text = text, _MARKUP.sub("", text)
    return _NOT_PRINTABLE.sub(" ", text).strip()


def region(mask: Mask) -> str:
    """Words for where the mask (H x W, 0 or 255) lies in its picture, with percentages of width and height."""
    height, width = mask.shape
    left, top, box_width, box_height = cv2.boundingRect(mask)
    across, down = (left + box_width / 2) / width, (top + box_height / 2) / height
    column = "left" if across < 1 / 3 else "right" if across > 2 / 3 else "middle"
    row = "upper" if down < 1 / 3 else "lower" if down > 2 / 3 else "middle"
    place = "centre" if (row, column) == ("middle", "middle") else f"{row} {column}"
    return (
        f"the {place} region (from {100 * left / width:.0f}% to {100 * (left + box_width) / width:.0f}% of the width, "
        f"from {100 * top / height:.0f}% to {100 * (top + box_height) / height:.0f}% of the height)"
    )


def edit_prompt(template: str, character_name: str, mask: Mask) -> str:
    """The template with the character's name and the region of `mask`, as the picture that is shown has it."""
    return template.format(character_name=plain(character_name), region=region(mask))
