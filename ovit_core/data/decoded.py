"""Small pictures of a whole set, decoded once: into a file that all processes of a machine map, or into memory."""

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from ovit_core import disk
from ovit_core.data.files import open_image
from ovit_core.progress import each

FORMAT = 1  # raised when pictures are decoded otherwise
Files = tuple[tuple[Path, bytes], ...]  # paths, with the digests of their content


@lru_cache(maxsize=16)  # of all sets of a study, for each seed asks anew
def decoded(files: Files, size: tuple[int, int], mode: str, cache: Path | None = None) -> Tensor:
    """Small pictures as a model sees them: their shorter side resized, the middle cut out.

    Args:
        files: n of them.
        size: height and width in pixels.
        mode: RGB, or L for gray.
        cache: the folder where they are kept, in a file that takes as many bytes as there are numbers; processes that
            map it share its memory. None, or one that cannot be written to: they are in this process's memory.

    Returns:
        (n, C, H, W) uint8. What is written to it is seen by nobody else.

    Raises:
        ValueError: a file cannot be read; names it.
    """
    shape = (len(files), 1 if mode == "L" else 3, *size)
    read = lambda path: pil_to_tensor(center_crop(_cover(open_image(path, mode), size), list(size))).numpy()
    pictures = lambda: each(read, [path for path, _ in files], "decoding images")
    if cache is not None:
        how = repr((FORMAT, PIL.__version__, size, mode)).encode()
        key = hashlib.sha256(how + b"".join(digest for _, digest in files)).hexdigest()[:16]
        with suppress(OSError):
            return torch.from_numpy(_kept(cache / f"decoded-{key}.npy", shape, pictures))
    images = torch.empty(shape, dtype=torch.uint8)
    for i, picture in enumerate(pictures()):
        images[i] = torch.from_numpy(picture)
    return images


def _kept(path: Path, shape: tuple[int, ...], pictures: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """The array of a file, which is made if it is not there. OSError: it cannot be written."""
    if (found := _mapped(path, shape)) is not None:
        return found
    with disk.locked(path, "decodes the same images"):
        if (found := _mapped(path, shape)) is None:
            with disk.writing(path) as partial, partial.open("wb") as file:  # not mapped: a full disk is then an error
                np.lib.format.write_array_header_1_0(file, dict(descr="|u1", fortran_order=False, shape=shape))
                for picture in pictures():
                    file.write(picture.tobytes())
                file.flush()
                os.fsync(file.fileno())
            found = _mapped(path, shape)
    assert found is not None
    return found


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A file's uint8 array, which changes the file in no case; None where there is none. One that is damaged is set aside."""
    if not path.is_file():  # a pipe would be waited for, for ever
        return None
    try:
        found = np.lib.format.open_memmap(path, mode="c")
        if found.shape == shape and found.dtype == np.uint8 and found.flags.c_contiguous:
            return found
        why = f"it holds {found.dtype} of the shape {found.shape}, not uint8 of {shape}"
    except ValueError as error:  # no header, or fewer bytes than it promises
        why = error
    disk.set_aside(path, why)
    return None


def _cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture scaled so that it just covers (height, width)."""
    scale = max(size[0] / image.height, size[1] / image.width)
    wanted = [max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale))]
    return image if wanted == [image.height, image.width] else resize(image, wanted)
