"""Draw pictures side by side under titles, one row an example."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hypergen.config import LONG_OVERLAP
from hypergen.storage.file_names import FIGURE

LEAST_SIDE = 96  # pixels of a picture in the grid
GAP, FONT_SIZE, LINE_HEIGHT = 4, 16, 20
FRAME, FRAME_COLOR = 3, "#d1495b"
LEGEND = f"Framed: recites a training picture, more than {LONG_OVERLAP} codes in a row."
SHOWN_WIDTH = 760  # pixels up to which a page enlarges a small figure by a whole factor


@dataclass
class PictureFigure:
    """Hold one picture that shows completions side by side; see `modality.Figure`."""

    content: Image.Image

    def html(self) -> str:
        """Render an `<img>` with the PNG inside, enlarged by a whole factor where it is small."""
        width, height = self.content.size
        factor = max(1, SHOWN_WIDTH // width)
        size = f'width="{factor * width}" height="{factor * height}"'
        png = BytesIO()
        self.content.save(png, "PNG")
        encoded = b64encode(png.getvalue()).decode()
        return f'<img {size} alt="Completions side by side" src="data:image/png;base64,{encoded}">'

    def _repr_html_(self) -> str:
        return self.html()

    def save(self, folder: Path) -> list[Path]:
        """Write the picture into `folder` as a PNG file."""
        path = folder / f"{FIGURE}.png"
        self.content.save(path)
        return [path]


def draw_picture_grid(
    columns: Mapping[str, Sequence[Image.Image]], framed: Mapping[str, Collection[int]] | None = None
) -> Image.Image:
    """Draw columns of equally many pictures of one size, by title, on white, one row an example.

    Small pictures are enlarged by a whole factor, each pixel a square, so that nothing is blurred.

    Args:
        columns: pictures by title.
        framed: by title, the rows (from 0) that get a frame, which a legend below explains.
    """
    framed = framed or {}
    # 1. Sizes: of a picture, of each column, which its title may widen, and of the strip of titles above them.
    width, height = next(iter(columns.values()))[0].size
    factor = max(1, ceil(LEAST_SIDE / min(width, height)))
    width, height = width * factor, height * factor
    font = ImageFont.load_default(FONT_SIZE)
    titles = {title: _wrap(title, width, font) for title in columns}
    cells = [max(width, *(ceil(font.getlength(line)) for line in lines)) for lines in titles.values()]
    top = LINE_HEIGHT * max(map(len, titles.values())) + 2 * GAP
    num_rows, whole = max(map(len, columns.values())), sum(cells) + GAP * (len(cells) + 1)
    legend = _wrap(LEGEND, whole - 2 * GAP, font) if any(framed.values()) else []
    bottom = LINE_HEIGHT * len(legend) + GAP * bool(legend)

    # 2. Title and pictures of each column, centred in it.
    below = top + num_rows * (height + GAP)
    canvas = Image.new("RGB", (whole, below + bottom), "white")
    pen, left = ImageDraw.Draw(canvas), GAP
    pen.multiline_text((GAP, below), "\n".join(legend), FRAME_COLOR, font)
    for (title, pictures), cell in zip(columns.items(), cells, strict=True):
        text = "\n".join(titles[title])
        anchor = (left + cell / 2, top - GAP - LINE_HEIGHT * len(titles[title]) / 2)
        pen.multiline_text(anchor, text, "black", font, anchor="mm", align="center")
        for row, picture in enumerate(pictures):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            x, y = left + (cell - width) // 2, top + row * (height + GAP)
            if row in framed.get(title, ()):
                pen.rectangle((x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1), FRAME_COLOR)
            canvas.paste(enlarged, (x, y))
        left += cell + GAP
    return canvas


def _wrap(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a title at spaces into lines no wider than a picture; a longer word stays whole."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
