"""Small pictures of a whole set, decoded once: into a file that all processes of a machine map, or into memory."""

import errno
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from ovit_core import disk
from ovit_core.data import files
from ovit_core.progress import each

log = logging.getLogger(__name__)
# What turns files into pixels: what other code or another library decoded is not taken.
CODE = hashlib.sha256(b"".join(Path(source).read_bytes() for source in (__file__, files.__file__))).hexdigest()
DECODERS = PIL.__version__, features.version("jpg"), features.version("zlib")
Listed = tuple[tuple[Path, bytes], ...]  # image files, with the SHA-256 of their content


@lru_cache(maxsize=16)  # of all sets of a study, for each seed asks anew
def decoded(listed: Listed, size: tuple[int, int], mode: str, cache: Path | None = None) -> Tensor:
    """Small pictures as a model sees them: their shorter side resized, the middle cut out.

    Args:
        listed: n files.
        size: height and width in pixels.
        mode: RGB, or L for gray.
        cache: the folder where they are kept, in a file that takes as many bytes as there are numbers; processes that
            map it share its memory. None, or one that cannot be written to: they are in this process's memory.

    Returns:
        (n, C, H, W) uint8. Not to be written to: who asks for the same gets the same.

    Raises:
        ValueError: a file cannot be read, or its content is another one by now; names it.
    """
    shape = (len(listed), 1 if mode == "L" else 3, *size)
    read = lambda file: pil_to_tensor(center_crop(_cover(_opened(*file, mode), size), list(size))).numpy()
    pictures = lambda: each(read, listed, "decoding images")
    if cache is not None:
        how = repr((CODE, DECODERS, size, mode)).encode()
        key = hashlib.sha256(how + b"".join(digest for _, digest in listed)).hexdigest()[:16]
        try:
            return torch.from_numpy(_kept(cache / f"decoded-{key}.npy", shape, pictures))
        except OSError as error:
            log.warning("%s: images are decoded by each process, into its memory", error)
    images = np.empty(shape, np.uint8)
    for i, picture in enumerate(pictures()):
        images[i] = picture
    return torch.from_numpy(images)


def _kept(path: Path, shape: tuple[int, ...], pictures: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """The array of a file, which is made if it is not there. OSError: it cannot be written."""
    if (found := _mapped(path, shape)) is not None:
        return found
    with disk.locked(path, "decodes the same images"):
        if (found := _mapped(path, shape)) is not None:
            return found
        disk.sweep(path.parent)
        if shutil.disk_usage(path.parent).free < math.prod(shape):
            raise disk.cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with disk.writing(path) as partial, partial.open("wb") as file:  # not mapped: a full disk is then an error
            np.lib.format.write_array_header_1_0(file, dict(descr="|u1", fortran_order=False, shape=shape))
            for picture in pictures():
                assert picture.shape == shape[1:]
                file.write(picture.tobytes())
            file.flush()
            os.fsync(file.fileno())
    if (found := _mapped(path, shape)) is None:
        raise OSError(f"{path} was removed as soon as it was written")
    return found


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A file's uint8 array, whose changes reach neither file nor other processes; None where there is none. One that is
    damaged is removed: it is large, and made again in a minute.
    """
    if not path.is_file():  # a pipe would be waited for, for ever
        return None
    try:
        found = np.lib.format.open_memmap(path, mode="c")
        if found.shape == shape and found.dtype == np.uint8 and found.flags.c_contiguous:
            return found
        why = f"it holds {found.dtype} of the shape {found.shape}, not uint8 of {shape}"
    except Exception as error:  # numpy's, its tokenizer's, the system's: whatever a damaged header makes of them
        why = disk.first_line(error)
    log.warning("%s cannot be read (%s): removed, and made again", path, why)
    path.unlink(missing_ok=True)
    return None


def _opened(path: Path, digest: bytes, mode: str) -> Image.Image:
    """A picture whose content is what it was when it was checked."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read image {disk.shown(path)}: {error.strerror}") from error
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"image {disk.shown(path)} was changed after it was checked: start again")
    return files.open_image(path, mode, content=content)


def _cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture scaled so that it just covers (height, width)."""
    scale = max(size[0] / image.height, size[1] / image.width)
    wanted = [max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale))]
    return image if wanted == [image.height, image.width] else resize(image, wanted)
