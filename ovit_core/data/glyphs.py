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

from ovit_core.data.listing import Listing

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
    return {c: [f for family in families for f in FACES[family] if ord(c) in _charmap(f)] for c in characters}


def _path(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@lru_cache
def _charmap(face: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_path(face))).get_charmap())


@cache
def _glyph(face: str, character: str) -> np.ndarray:
    """(CANVAS, CANVAS) uint8 coverage, the glyph's box centred, as large as a letter of 56 pixels per em."""
    font = ImageFont.truetype(str(_path(face)), 56)
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (CANVAS, CANVAS))
    at = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(at, character, fill=255, font=font)
    return np.asarray(image)


def render(pairs: list[tuple[str, str]], seed: int) -> Tensor:
    """(n, 3, 32, 32) uint8 images of (face, character) pairs, each with its own colours, pose and noise."""
    g = torch.Generator().manual_seed(seed)
    n = len(pairs)
    uniform = lambda low, high, *shape: low + (high - low) * torch.rand(n, *shape, generator=g)
    angle, scale = uniform(-10, 10).deg2rad(), uniform(0.6, 0.85)
    shift = uniform(-0.1, 0.1, 2)
    light, dark = uniform(0.55, 1.0, 3, 1, 1), uniform(0.0, 0.4, 3, 1, 1)
    images = torch.empty(n, 3, SIZE, SIZE, dtype=torch.uint8)
    for i in range(0, n, 1000):
        part = slice(i, i + 1000)
        ink = torch.from_numpy(np.stack([_glyph(*pair) for pair in pairs[part]])).float().div(255).unsqueeze(1)
        cos, sin = angle[part].cos() * scale[part], angle[part].sin() * scale[part]
        theta = torch.stack([cos, -sin, shift[part, 0], sin, cos, shift[part, 1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, (len(ink), 1, 2 * SIZE, 2 * SIZE), align_corners=False)
        ink = F.avg_pool2d(F.grid_sample(ink, grid, align_corners=False), 2)  # sampled twice as fine, then averaged
        noise = 0.04 * torch.randn(len(ink), 3, SIZE, SIZE, generator=g)
        picture = dark[part] + (light[part] - dark[part]) * ink + noise
        images[part] = picture.clamp(0, 1).mul(255).round().byte()
    return images


def _characters(characters: str, per_class: int, families: tuple[str, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels, `per_class` of each character, faces drawn at random among those that have it."""
    having = faces(families, characters)
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(characters)), per_class)
    rng.shuffle(labels)
    pairs = [(rng.choice(having[characters[y]]), characters[y]) for y in labels]
    return render([(str(f), c) for f, c in pairs], seed), torch.from_numpy(labels)


def _typefaces(per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels: which of all faces set this capital letter."""
    names = [face for family in FACES for face in FACES[family]]
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(names)), per_class)
    rng.shuffle(labels)
    return render([(names[y], LETTERS[rng.integers(26)]) for y in labels], seed), torch.from_numpy(labels)


def read(name: str, data_dir: Path) -> Listing:
    """A set of rendered images; nothing has to be in `data_dir`."""
    return rendered(name)


@lru_cache  # seconds, and each seed asks anew
def rendered(name: str) -> Listing:
    """`glyph_letters`, `glyph_symbols` or `glyph_typefaces`. The same bytes on every call: not to be written to."""
    if name == "glyph_letters":  # 32,032 and 2600 images
        train, test = _characters(LETTERS, 1232, TRAIN_FAMILIES, 1), _characters(LETTERS, 100, TEST_FAMILIES, 2)
        return Listing(list(LETTERS), train, test)
    if name == "glyph_symbols":  # 3030 and 1010 images
        train, test = _characters(SYMBOLS, 30, TRAIN_FAMILIES, 3), _characters(SYMBOLS, 10, TEST_FAMILIES, 4)
        return Listing(list(SYMBOLS), train, test)
    # 2100 and 1050 images; the faces are the classes, so only the rendering differs
    return Listing([face for family in FACES for face in FACES[family]], _typefaces(100, 5), _typefaces(50, 6))
