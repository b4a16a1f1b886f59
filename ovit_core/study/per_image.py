"""What single test images say, beside the rows: in tables to be analysed, and published as per_image.npz.

The file holds, for every test split under the name of its dataset (`NAME~2` and so on, should rows of one dataset be of
several splits):

    NAME/rows       (r,) lines of results.csv, the first below the head being 0: accuracies of whole test splits
    NAME/images     how many images N there are
    NAME/correct    (r, ceil(N / 8)) bits: whether each image is right
    NAME/labels     (N,) labels of the split, where they are known
    NAME/loss_rows  (q,) those of the lines of models whose losses a listed contrast compares
    NAME/loss       (q, N) float16 cross-entropy
    NAME/top        (q, N) float16 probability of the class that the image was taken for

A line of 10,000 images takes 1.25 kB, with loss and probability 41 kB more: 1500 lines of which 150 are compared, 8 MB.
"""

import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ovit_core import disk
from ovit_core.study import intervals
from ovit_core.study.store import Images
from ovit_core.study.tasks import HELD_OUT, KEY

FILE = "per_image.npz"
MOST = 2**30  # bytes once unpacked: more is no file of ours
Behind = list[Images | None]  # of each row of a table


def slim(rows: pd.DataFrame, images: Sequence[Images | None], used: Sequence[bool]) -> Behind:
    """Images with losses and probabilities of the models of used rows only: what is published, and so what is shown."""
    models = _models(rows)
    kept = {key for key, keep in zip(models, used) if keep}
    return [
        one if one is None or key in kept else replace(one, loss=None, top=None) for key, one in zip(models, images)
    ]


def with_images(rows: pd.DataFrame, images: Sequence[Images | None]) -> pd.DataFrame:
    """Rows with two more columns of objects, None where nothing is kept.

    Args:
        rows: a table.
        images: of each of its rows.

    Returns:
        `each`: (N,) float32, what each image contributes to `value`: whether it is right for an accuracy of a whole split,
            its loss for `cross_entropy`, kept with the accuracy of the same model.
        `labels`: (N,) labels of the split where the value is a mean over classes.
    """
    models = _models(rows)
    losses = {key: one.loss for key, one in zip(models, images) if one is not None and one.loss is not None}
    each, labels = [], []
    for key, metric, one in zip(models, rows.metric, images):
        split = one.labels if one is not None and metric == "mean_per_class" else None
        if metric == "cross_entropy" and key in losses:
            each.append(losses[key].astype(np.float32))
        elif one is not None and (metric in ("top1", HELD_OUT) or split is not None):
            each.append(one.correct.astype(np.float32))
        else:
            each.append(None)
        labels.append(split)
    objects = dict(each=each, labels=labels)
    return rows.assign(**{name: pd.Series(values, rows.index, dtype=object) for name, values in objects.items()})


def _models(rows: pd.DataFrame) -> list[tuple]:
    """What identifies the model and the split of each row."""
    columns = [column for column in KEY if column != "metric"]
    known = rows[columns].astype(object).where(rows[columns].notna(), "")
    return list(known.itertuples(index=False, name=None))


def write(path: Path, rows: pd.DataFrame, images: Sequence[Images | None]) -> None:
    """Publishes the images behind rows, which are written in this order. No file where there are none."""
    splits = defaultdict(list)
    for line, (dataset, one) in enumerate(zip(rows.dataset, images)):
        if one is not None:
            known = None if one.labels is None else one.labels.tobytes()
            splits[dataset, len(one.correct), known].append((line, one))
    if not splits:
        path.unlink(missing_ok=True)
        return
    arrays, names = {}, defaultdict(int)
    for (dataset, count, _), lines in splits.items():
        names[dataset] += 1
        name = f"{dataset}~{names[dataset]}" if names[dataset] > 1 else dataset
        told = [(line, one) for line, one in lines if one.loss is not None]
        arrays[f"{name}/rows"] = np.array([line for line, _ in lines], np.int32)
        arrays[f"{name}/images"] = np.array(count, np.int32)
        arrays[f"{name}/correct"] = np.stack([np.packbits(one.correct) for _, one in lines])
        if lines[0][1].labels is not None:
            arrays[f"{name}/labels"] = lines[0][1].labels
        arrays[f"{name}/loss_rows"] = np.array([line for line, _ in told], np.int32)
        for what in ("loss", "top"):
            stacked = [getattr(one, what) for _, one in told]
            arrays[f"{name}/{what}"] = np.array(stacked, np.float16).reshape(len(told), count)
    with disk.writing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read(path: Path, rows: pd.DataFrame) -> Behind:
    """The images behind each of the rows of the results.csv beside it; None throughout where there is no such file.

    Raises:
        ValueError: it is damaged, or belongs to other rows; names the file.
    """
    found: Behind = [None] * len(rows)
    if not path.is_file():
        return found
    try:
        with zipfile.ZipFile(path) as packed:
            if sum(member.file_size for member in packed.infolist()) > MOST:
                raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as arrays:
            for name in [key.removesuffix("/rows") for key in arrays.files if key.endswith("/rows")]:
                for line, one in _split(arrays, name, rows).items():
                    found[line] = one
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged ({disk.first_line(error)}); restore it, or remove it and run the study"
        ) from None
    return found


def _split(arrays: np.lib.npyio.NpzFile, name: str, rows: pd.DataFrame) -> dict[int, Images]:
    """line -> its images, of one test split.

    Raises:
        ValueError, KeyError: arrays are missing, do not fit together, or do not give the values of the rows.
    """
    get = lambda what: arrays[f"{name}/{what}"]
    lines, count, packed = get("rows"), int(get("images")), get("correct")
    told, loss, top = get("loss_rows"), get("loss"), get("top")
    labels = get("labels") if f"{name}/labels" in arrays.files else None
    shapes = packed.shape == (len(lines), -(-count // 8)) and loss.shape == top.shape == (len(told), count)
    if not shapes or (labels is not None and labels.shape != (count,)) or not np.isin(told, lines).all():
        raise ValueError(f"the arrays of {disk.shown(name)} do not fit together")
    correct = np.unpackbits(packed, axis=1, count=count).astype(bool)
    if (lines < 0).any() or (lines >= len(rows)).any():
        raise ValueError("it belongs to another results.csv")
    here = rows.iloc[lines]
    for metric, strata in {"top1": None, HELD_OUT: None, "mean_per_class": labels}.items():
        mine = (here.metric == metric).to_numpy()
        if metric == "mean_per_class" and strata is None:
            continue
        off = np.abs(intervals.means(correct[mine].astype(np.float64), strata) - here.value[mine])
        if (off > 1e-6).any():
            raise ValueError("it belongs to another results.csv")
    behind = dict(zip(told.tolist(), zip(loss, top)))
    return {
        line: Images(right, *behind.get(line, (None, None)), labels) for line, right in zip(lines.tolist(), correct)
    }
