"""Images that need no download: glyphs of the fonts that matplotlib ships, rendered deterministically.

A light coloured glyph on a dark coloured ground, shifted, rotated by up to 10 degrees, scaled, with noise.
Train and test differ in rendering seed and in typeface family.
"""

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ovit_core.data.listing import Listing, Split

FONT = f"{matplotlib.get_data_path()}/fonts/ttf/{{}}.ttf"
SIZE = 32  # pixels of an image
CANVAS = 96  # pixels of the glyph before it is turned and scaled down
# Families, not styles, are held out: a bold cut of a known face would be no new face.
TRAIN_FAMILIES = ("DejaVuSans", "DejaVuSerif", "cm")
TEST_FAMILIES = ("DejaVuSansMono", "STIXGeneral")
FACES = {
    "DejaVuSans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "DejaVuSerif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "cm": ("cmr10", "cmb10", "cmmi10", "cmss10", "cmtt10"),
    "DejaVuSansMono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    "STIXGeneral": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# 101 symbols that look different from each other and from the Latin capitals.
SYMBOLS = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρστφχψωБГДЖИЛЦЧШЩЪЫЭЮЯбвджкя∀∂∃∅∇∈∋−√∝∞∠∨∩∪∫∮∴∼≅≈≠≤≥⊂⊃⊕⊗⊥+×÷=<>±¬%&@#$?!§¶©®£¥€"


def faces(families: tuple[str, ...], characters: str) -> dict[str, list[str]]:
    """character -> names of the faces of those families that really have it."""
    has = {face: FT2Font(FONT.format(face)).get_charmap() for family in families for face in FACES[family]}
    return {c: [face for face in has if ord(c) in has[face]] for c in characters}


@cache
def _glyph(face: str, character: str) -> np.ndarray:
    """(CANVAS, CANVAS) uint8 coverage, the glyph's box centred, as large as a letter of 56 pixels per em."""
    # Pillow's other layout, where the system has a library for it, sets some glyphs otherwise.
    font = ImageFont.truetype(FONT.format(face), 56, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (CANVAS, CANVAS))
    at = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(at, character, fill=255, font=font)
    return np.asarray(image)


def render(pairs: list[tuple[str, str]], seed: int) -> Tensor:
    """(n, 3, 32, 32) uint8 images of (face, character) pairs, each with its own colours, pose and noise.

    In double precision, whose rounding differs between processors as single's does, but by a billionth of what
    would change a pixel: every processor renders the same bytes, and so finds the rows that another has measured.
    """
    g = torch.Generator().manual_seed(seed)
    n = len(pairs)
    uniform = lambda low, high, *shape: low + (high - low) * torch.rand(n, *shape, generator=g, dtype=torch.float64)
    angle, scale = uniform(-10, 10).deg2rad(), uniform(0.6, 0.85)
    shift = uniform(-0.1, 0.1, 2)
    light, dark = uniform(0.55, 1.0, 3, 1, 1), uniform(0.0, 0.4, 3, 1, 1)
    images = torch.empty(n, 3, SIZE, SIZE, dtype=torch.uint8)
    for i in range(0, n, 1000):
        part = slice(i, i + 1000)
        ink = torch.from_numpy(np.stack([_glyph(*pair) for pair in pairs[part]])).double().div(255).unsqueeze(1)
        cos, sin = angle[part].cos() * scale[part], angle[part].sin() * scale[part]
        theta = torch.stack([cos, -sin, shift[part, 0], sin, cos, shift[part, 1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, (len(ink), 1, 2 * SIZE, 2 * SIZE), align_corners=False)
        ink = F.avg_pool2d(F.grid_sample(ink, grid, align_corners=False), 2)  # sampled twice as fine, then averaged
        noise = 0.04 * torch.randn(len(ink), 3, SIZE, SIZE, generator=g, dtype=torch.float64)
        picture = dark[part] + (light[part] - dark[part]) * ink + noise
        images[part] = picture.clamp(0, 1).mul(255).round().byte()
    return images


def _split(classes: list[list[tuple[str, str]]], per_class: int, seed: int) -> Split:
    """`per_class` images of each class in random order, drawn from the (face, character) pairs that show it."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(classes)), per_class)
    rng.shuffle(labels)
    return render([classes[y][rng.integers(len(classes[y]))] for y in labels], seed), torch.from_numpy(labels)


def read(name: str, data_dir: Path) -> Listing:
    """A set of rendered images; nothing has to be in `data_dir`."""
    return rendered(name)


@lru_cache  # seconds, and each seed asks anew
def rendered(name: str) -> Listing:
    """`glyph_letters`, `glyph_symbols` or `glyph_typefaces`. The same bytes on every call: not to be written to."""
    if name == "glyph_typefaces":  # 2100 and 1050 images; the faces are the classes, so only the rendering differs
        names = [face for family in FACES.values() for face in family]
        pairs = [[(face, letter) for letter in LETTERS] for face in names]
        return Listing(names, _split(pairs, 100, 5), _split(pairs, 50, 6))
    characters = LETTERS if name == "glyph_letters" else SYMBOLS
    pairs, unseen = (
        [[(face, character) for face in its_faces] for character, its_faces in faces(families, characters).items()]
        for families in (TRAIN_FAMILIES, TEST_FAMILIES)
    )
    if name == "glyph_letters":  # 32,032 and 2600 images
        return Listing(list(LETTERS), _split(pairs, 1232, 1), _split(unseen, 100, 2))
    return Listing(list(SYMBOLS), _split(pairs, 30, 3), _split(unseen, 10, 4))  # 3030 and 1010 images
