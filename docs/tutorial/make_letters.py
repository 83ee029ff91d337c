"""Draws the images of the tutorial: letters, a folder each, in the fonts that Matplotlib ships.

    python docs/tutorial/make_letters.py letters

The same seed draws the same images.
"""

import argparse
import pathlib

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGH"
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmss10", "cmtt10", "cmb10"),
)
SIDE = 32  # pixels


def draw(letter: str, generator: np.random.Generator) -> Image.Image:
    """One grey image: any font, size, place, angle, ink and paper, with noise."""
    folder = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
    font = folder / f"{generator.choice(FONTS)}.ttf"
    size, angle = generator.uniform(20, 28), generator.uniform(-15, 15)
    place = SIDE / 2 + generator.uniform(-3, 3, 2)
    paper, ink = generator.uniform(0.0, 0.3), generator.uniform(0.6, 1.0)
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).text(
        (place[0], place[1]), letter, fill=255, font=ImageFont.truetype(font, size), anchor="mm"
    )
    turned = np.asarray(canvas.rotate(angle, Image.Resampling.BICUBIC)) / 255
    noise = generator.normal(0.0, 0.05, turned.shape)
    values = np.clip(paper + (ink - paper) * turned + noise, 0.0, 1.0)
    return Image.fromarray(np.round(255 * values).astype(np.uint8))


def main() -> None:
    """Reads the command line and writes the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path, help="receives a folder per letter")
    parser.add_argument("--per_letter", type=int, default=120, help="images of each; default 120")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    for letter in LETTERS:
        folder = options.directory / letter
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(options.per_letter):
            draw(letter, generator).save(folder / f"{number:03d}.png")


if __name__ == "__main__":
    main()
