"""Pictures side by side under titles, to look at. Does not know: tokens, where pictures come from."""

from __future__ import annotations

from math import ceil

from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 96  # pixels of a picture in the grid
GAP, FONT_SIZE, LINE_HEIGHT = 4, 16, 20


def draw(columns: dict[str, list[Image.Image]]) -> Image.Image:
    """Columns of equally many pictures of one size, by title -> one picture on white, one row an example.

    Small pictures are enlarged by a whole factor, each pixel a square.
    """
    width, height = next(iter(columns.values()))[0].size
    factor = max(1, ceil(LEAST_SIDE / min(width, height)))
    width, height = width * factor, height * factor
    font = ImageFont.load_default(FONT_SIZE)
    titles = {title: _wrap(title, width, font) for title in columns}
    cells = [max(width, *(ceil(font.getlength(line)) for line in lines)) for lines in titles.values()]
    top = LINE_HEIGHT * max(map(len, titles.values())) + 2 * GAP
    num_rows = max(map(len, columns.values()))
    canvas = Image.new("RGB", (sum(cells) + GAP * (len(cells) + 1), top + num_rows * (height + GAP)), "white")
    pen, left = ImageDraw.Draw(canvas), GAP
    for (title, pictures), cell in zip(columns.items(), cells, strict=True):
        text = "\n".join(titles[title])
        anchor = (left + cell / 2, top - GAP - LINE_HEIGHT * len(titles[title]) / 2)
        pen.multiline_text(anchor, text, "black", font, anchor="mm", align="center")
        for row, picture in enumerate(pictures):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (left + (cell - width) // 2, top + row * (height + GAP)))
        left += cell + GAP
    return canvas


def _wrap(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The title in lines no wider than a picture, broken at spaces; a longer word stays whole."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
