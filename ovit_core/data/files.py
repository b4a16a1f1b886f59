"""Images decoded one at a time: files of any size, or small images in memory that a model wants larger."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from ovit_core.progress import progress


@dataclass(eq=False)
class ImageFiles(Dataset):
    """A split whose images are opened when asked for; items are (transformed image, int label)."""

    sources: Sequence[Path] | Tensor  # image files, or (n, C, H, W) uint8
    labels: np.ndarray  # (n,) integers
    transform: Callable  # of a PIL image in RGB, for evaluation
    train_transform: Callable | None = None  # with random augmentation, for training; None: see the images unaugmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        source = self.sources[i]
        image = open_image(source) if self.on_disk else to_pil_image(source).convert("RGB")
        return (self.train_transform or self.transform)(image), int(self.labels[i])

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

    def verify(self) -> None:
        """Decodes every file once, small. Raises ValueError naming the first that cannot be read."""
        with ThreadPoolExecutor() as pool, progress(total=len(self), desc="checking images") as bar:
            for start in range(0, len(self), 10_000):  # `map` queues all it is given at once
                for _ in pool.map(partial(open_image, small=True), self.sources[start : start + 10_000]):
                    bar.update()


def open_image(path: Path, small: bool = False) -> Image.Image:
    """A file in RGB. `small` lets JPEG decode at an eighth of the size: it still reads the file to its end.

    Raises:
        ValueError: the file is missing, truncated or no image; names it.
    """
    try:
        with Image.open(path) as image:
            if small:
                image.draft("RGB", (32, 32))
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
        raise ValueError(f"cannot read image {path}: {error}") from error
