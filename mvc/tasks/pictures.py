"""What was found, drawn on its photograph with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mvc.model.image import to_rgb
from mvc.tasks.packages import optional

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from mvc.tasks.detection import Detections

Colour = tuple[int, int, int]

OPACITY, SEGMENT_OPACITY = 0.45, 0.6  # of a mask, and of the classes of all pixels
GOLDEN = 0.618034  # a turn of the hue by it sets each colour apart from those before


def colour(index: int) -> Colour:
    """The colour of a class: strong, and unlike those of the classes before it."""
    red, green, blue = colorsys.hsv_to_rgb((0.1 + index * GOLDEN) % 1, 0.75, 0.95 if index % 2 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image.Image, found: Detections, names: Sequence[str]) -> Image.Image:
    """A copy of the photograph with masks, boxes, and names with scores; the best are drawn last, on top.

    Args:
        image: of any mode, and of the size that the detections are of.
        names: of the classes.
    """
    draw_module, font_module = optional("PIL.ImageDraw"), optional("PIL.ImageFont")
    pixels = np.array(to_rgb(image)).astype(np.float32)
    worst_first = range(len(found.boxes) - 1, -1, -1)
    labels, masks = found.labels.tolist(), found.masks.cpu().numpy()
    for each in worst_first:
        pixels[masks[each]] += OPACITY * (np.array(colour(labels[each])) - pixels[masks[each]])
    drawn = optional("PIL.Image").fromarray(pixels.round().astype(np.uint8))
    draw, unit = draw_module.Draw(drawn), max(round(min(drawn.size) / 300), 1)
    font = font_module.load_default(max(9 * unit, 11))
    for each in worst_first:
        box = found.boxes[each].tolist()
        draw.rectangle(box, outline=colour(labels[each]), width=unit)
        text = f"{names[labels[each]]} {found.scores[each]:.2f}"
        _label(draw, text, (box[0], box[1]), font, colour(labels[each]), drawn.size)
    return drawn


def draw_segments(image: Image.Image, labels: Tensor, names: Sequence[str]) -> Image.Image:
    """A copy of the photograph with each pixel in the colour of its class, and below it the names of the classes that
    are there, the largest first.

    Args:
        image: of any mode.
        labels: (height, width) of the photograph, from 0.
        names: of the classes.
    """
    draw_module, font_module = optional("PIL.ImageDraw"), optional("PIL.ImageFont")
    pixels, classes = np.array(to_rgb(image)).astype(np.float32), labels.cpu().numpy()
    colours = np.array([colour(index) for index in range(len(names))], dtype=np.float32)
    pixels += SEGMENT_OPACITY * (colours[classes] - pixels)
    present, counts = np.unique(classes, return_counts=True)
    unit = max(round(min(image.size) / 300), 1)
    font, line = font_module.load_default(max(9 * unit, 11)), max(12 * unit, 15)
    names_at, x, y = [], 0, 0
    for index in present[np.argsort(-counts, kind="stable")].tolist():
        width = round(font.getlength(names[index])) + line
        if x and x + width > image.width:
            x, y = 0, y + line
        names_at.append((index, x, y))
        x += width + unit
    drawn = optional("PIL.Image").new("RGB", (image.width, image.height + y + line), "white")
    drawn.paste(optional("PIL.Image").fromarray(pixels.round().astype(np.uint8)))
    draw = draw_module.Draw(drawn)
    for index, x, y in names_at:
        _label(draw, names[index], (x, image.height + y), font, colour(index), drawn.size, above=False)
    return drawn


def label_picture(labels: Tensor) -> Image.Image:
    """Labels (height, width) from 0 to 255 as a picture of as many bits, which viewers show in the colours of classes:
    1 in that of the first one."""
    picture = optional("PIL.Image").fromarray(labels.cpu().numpy().astype(np.uint8))
    picture.putpalette([0, 0, 0, *(level for index in range(255) for level in colour(index))])
    return picture


def _label(
    draw, text: str, corner: tuple[float, float], font, background: Colour, size: tuple[int, int], *, above: bool = True
) -> None:
    """A text on its colour, above the corner where that is asked for and there is room, and within the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height if above and corner[1] >= height else corner[1]
    y = min(max(y, 0), max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=background)
    bright = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2] > 140
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill="black" if bright else "white")
