"""Images decoded one at a time: files of any size, or small images in memory that a model wants larger."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ovit_core.progress import progress


class ImageFiles(Dataset):
    """A split whose images are opened when asked for; items are (transformed image, int label).

    Args:
        sources: paths of image files, or (n, C, H, W) uint8.
        labels: (n,) integers.
        transform: of a PIL image in RGB, for evaluation.
        train_transform: the same with random augmentation, for training; `transform` if None.
    """

    def __init__(
        self,
        sources: Sequence[Path] | Tensor,
        labels: Sequence[int] | Tensor | np.ndarray,
        transform: Callable,
        train_transform: Callable | None = None,
    ):
        self.sources, self.labels = sources, np.asarray(labels)
        self.transform, self.train_transform = transform, train_transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return (self.train_transform or self.transform)(self.image(i)), int(self.labels[i])

    def image(self, i: int) -> Image.Image:
        """In RGB, as stored. Raises ValueError naming the file if it cannot be read."""
        if not self.on_disk:
            pixels = self.sources[i].permute(1, 2, 0).numpy()  # (H, W, C)
            return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")
        return open_image(self.sources[i])

    def take(self, index: np.ndarray) -> "ImageFiles":
        """A part of the split."""
        sources = [self.sources[i] for i in index] if self.on_disk else self.sources[index]
        return ImageFiles(sources, self.labels[index], self.transform, self.train_transform)

    def unaugmented(self) -> "ImageFiles":
        """The same images as an evaluation would see them."""
        return ImageFiles(self.sources, self.labels, self.transform)

    @property
    def on_disk(self) -> bool:
        return not isinstance(self.sources, Tensor)

    def verify(self) -> None:
        """Decodes every file once, small. Raises ValueError naming the first that cannot be read."""
        read = lambda path: open_image(path, small=True)
        with ThreadPoolExecutor() as pool, progress(total=len(self), desc="checking images") as bar:
            for start in range(0, len(self), 10_000):  # `map` queues all it is given at once
                for _ in pool.map(read, self.sources[start : start + 10_000]):
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
