"""Images in files: opened as the picture a person sees, one at a time."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from ovit_core.disk import shown

SMALL = 64  # pixels of a picture's shorter side: whole sets of such are `decoded` once
SAMPLE = 64  # files looked at to tell whether a set's pictures are small
SLIMMEST = 1000  # times that a picture's longer side may have its shorter one


@dataclass(eq=False)
class ImageFiles(Dataset):
    """A split whose images are opened when asked for; items are (transformed image, int label)."""

    sources: Sequence[Path] | Tensor  # image files, or (n, C, H, W) uint8
    labels: np.ndarray  # (n,) integers
    transform: Callable  # of a PIL image in `mode`, for evaluation
    train_transform: Callable | None = None  # with random augmentation, for training; None: see the images unaugmented
    mode: str = "RGB"  # or L, for models of one channel
    draw: int = 0  # which augmentation is drawn; a loader sets it for each epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        source = self.sources[i]
        image = open_image(source, self.mode) if self.on_disk else to_pil_image(source).convert(self.mode)
        if self.train_transform is None:
            return self.transform(image), int(self.labels[i])
        with _drawn((self.draw * 1_000_003 + i) % 2**63):
            return self.train_transform(image), int(self.labels[i])

    def take(self, index: np.ndarray) -> "ImageFiles":
        """A part of the split."""
        sources = [self.sources[i] for i in index] if self.on_disk else self.sources[index]
        return replace(self, sources=sources, labels=self.labels[index])

    def unaugmented(self) -> "ImageFiles":
        """The same images as an evaluation would see them."""
        return replace(self, train_transform=None)

    @property
    def on_disk(self) -> bool:
        return not isinstance(self.sources, Tensor)


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Random numbers from a seed, of each library that timm's transforms draw from: an image is then augmented alike
    whichever process opens it. Afterwards they go on as before.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.random.default_generator.manual_seed(seed)  # a GPU's is left alone
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def examine(path: Path, content: bytes) -> None:
    """Decodes a file once, small. Raises ValueError naming it if it cannot be read."""
    open_image(path, small=True, content=content)


def are_small(paths: Sequence[Path]) -> bool:
    """Whether pictures, by a sample of them, have a shorter side of at most SMALL pixels."""
    return all(min(_size(paths[i])) <= SMALL for i in range(0, len(paths), max(1, len(paths) // SAMPLE)))


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:
        raise ValueError(f"cannot read image {shown(path)}: {shown(error)}") from error


def open_image(path: Path, mode: str = "RGB", small: bool = False, content: bytes | None = None) -> Image.Image:
    """A file as the picture a person sees: turned as its EXIF says, transparency on white, 16 bits scaled to 8, the
    first frame of an animation.

    Args:
        mode: RGB, or L for gray.
        small: lets JPEG decode at an eighth of the size: it still reads the file to its end.
        content: of the file, where it was read already.

    Raises:
        ValueError: the file is missing, truncated, no image, or of a kind that has no such picture; names it.
    """
    try:
        with Image.open(path if content is None else BytesIO(content)) as image:
            if small:
                image.draft("RGB", (32, 32))
            return _as_seen(ImageOps.exif_transpose(image)).convert(mode)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
        raise ValueError(f"cannot read image {shown(path)}: {shown(error)}") from error


def _as_seen(image: Image.Image) -> Image.Image:
    """In RGB or gray of 8 bits. ValueError if that cannot be told, or for a strip: scaled by its shorter side, as models
    want pictures, one of a kilobyte would fill the memory.
    """
    if max(image.size) > SLIMMEST * min(image.size):
        raise ValueError(f"it has {image.width} x {image.height} pixels: one side is over {SLIMMEST} times the other")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255, or as many numbers in 32
        pixels = np.asarray(image).astype(np.int64)
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > 65_535:
            raise ValueError(f"its pixels are 32-bit integers from {low} to {high}: save it with 8 or 16 bits")
        scale = 1 if image.mode == "I" and high <= 255 else 257
        seen = (pixels / scale).round()
        seen[pixels == image.info.get("transparency", -1)] = 255
        return Image.fromarray(seen.astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range: save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
