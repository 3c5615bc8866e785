"""The moving picture of the README: how RAR trains, and how it samples.

python -m tests.tools.moving_picture results/pictures/rar.gif

`rar_narrow.gif` beside it, with half as many digits, is what the website shows on a telephone.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rar_nb.data.images import DATA, open_data
from rar_nb.data.tokens import pretokenize
from rar_nb.orders import sample_orders
from rar_nb.play.watch import decode_known
from rar_nb.runs.run_folders import open_run
from rar_nb.sampler import image_noise, sample_tokens
from rar_nb.style import COLORS
from rar_nb.support import write_beside

CELL, SCALE, GAP, LEFT = 4, 3, 12, 12
COLUMNS, NARROW, SIDE = 8, 4, 28 * SCALE
HEIGHT = 304
TITLES = ("Training: every image in an order of its own", "Sampling: row by row, token by token")


def font(size: int):
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def frame(rows: list[tuple[torch.Tensor, torch.Tensor | None]]) -> Image.Image:
    """Two rows of images, each with its heading, and a frame around the next cell."""
    columns = len(rows[0][0])
    width = 2 * LEFT + columns * (SIDE + GAP) - GAP
    canvas = Image.new("RGB", (width, HEIGHT), "white")
    pen = ImageDraw.Draw(canvas)
    letters = font(18 if columns == COLUMNS else 16)
    for row, (images, following) in enumerate(rows):
        top = 8 + row * (HEIGHT // 2)
        pen.text((LEFT, top), TITLES[row], fill="#333333", font=letters)
        for column, image in enumerate(images):
            x, y = LEFT + column * (SIDE + GAP), top + 34
            digit = Image.fromarray(image[0].numpy()).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.paste(digit, (x, y))
            if following is not None:
                i, j = divmod(int(following[column]), 7)
                size = CELL * SCALE
                box = (x + j * size, y + i * size, x + (j + 1) * size - 1, y + (i + 1) * size - 1)
                pen.rectangle(box, outline=COLORS["next"], width=2)
    return canvas


def known_until(tokens: torch.Tensor, orders: torch.Tensor, step: int) -> torch.Tensor:
    """Tokens of the first steps of their orders; -1 for the others."""
    known = torch.full_like(tokens, -1)
    return known.scatter(1, orders[:, :step], tokens.gather(1, orders[:, :step]))


@torch.no_grad()
def frames(columns: int) -> list[Image.Image]:
    """The film of the first `columns` classes."""
    run, tokenizer, model = open_run(DATA / "digits_run")
    classes = torch.arange(columns)
    images = open_data("digits")[1]
    chosen = [int(np.flatnonzero(images.targets == c)[3]) for c in range(columns)]
    real = torch.stack([pretokenize(tokenizer, images).tokens[i, 0] for i in chosen])
    sampled = sample_tokens(model, classes, run.sample, image_noise(5, range(columns), 49))
    random = sample_orders(columns, 49, 1.0, torch.Generator().manual_seed(1))
    raster = torch.arange(49).expand(columns, -1)
    made = []
    for step in [*range(50), *[49] * 12]:
        rows = []
        for tokens, orders in ((real, random), (sampled, raster)):
            done = step if step < 49 else 49
            following = orders[:, done] if done < 49 else None
            rows.append((decode_known(tokenizer, known_until(tokens, orders, done)), following))
        made.append(frame(rows))
    return made


def save(path: Path, columns: int):
    pictures = [p.quantize(48, method=Image.Quantize.MEDIANCUT) for p in frames(columns)]
    with write_beside(path) as beside:
        pictures[0].save(
            beside, format="GIF", save_all=True, append_images=pictures[1:], duration=120, loop=0
        )


if __name__ == "__main__":
    wide = Path(sys.argv[1])
    save(wide, COLUMNS)
    save(wide.with_stem(f"{wide.stem}_narrow"), NARROW)
