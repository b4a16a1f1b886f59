"""What a dense model is known by, before and after it is there, and where training is taken up from: without torch, so
that a plan can ask in an instant.
"""

import hashlib
import json
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from safetensors import safe_open

from ovit_core import disk
from ovit_core.data import manifest
from ovit_core.study import paths, provenance, released
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import Task

# Raised by whoever changes how a dense model is trained; finished ones survive all other work on the code.
RECIPE = 3
CLAIMS = 256  # files for the claims to all tasks of a profile: two rarely meet in one, and there are no more of them


def dense_path(config: Parameters, seed: int, fingerprint: str) -> Path:
    """Where the dense model of a (dense) seed lies once it is trained: named by all that its weights depend on."""
    recipe = [
        config.model, config.model_args, config.epochs, config.lr, config.weight_decay, config.batch_size,
        list(config.augment), config.threads,
    ]  # fmt: skip
    if config.mixup or config.cutmix or config.smoothing:  # models without are called as before there were these
        recipe += [config.mixup, config.cutmix, config.mixup_prob, config.smoothing]
    if config.amp_dtype:
        recipe += [config.amp_dtype]
    key = provenance.digest(recipe, fingerprint, seed, RECIPE)
    return paths.cache() / f"dense-{config.upstream.replace(':', '_')}-{key}.safetensors"


def of_dense(config: Parameters, seed: int, fingerprint: str) -> str:
    """What identifies the weights of a dense model: their file's content, in the cache or published, or timm's name and
    version, with the content of what a local folder holds; "" where they are still to be trained. Weights of the hub are
    known by their name: a revision (`hf-hub:OWNER/NAME@REVISION`) says which.
    """
    how = [config.model, config.model_args, config.masks_from_zeros]
    if config.pretrained:
        return provenance.digest(how, "pretrained", version("timm"), *_in_folder(config.model))
    path = config.checkpoint_path or dense_path(config, seed, fingerprint)
    if path.is_file():
        return provenance.digest(how, _sha256(path))
    file = None if config.checkpoint_path else released.find(path, config.profile)
    return provenance.digest(how, released.notes(file)["sha256"]) if file else ""


def _in_folder(model: str) -> list[str]:
    """What a model of timm's `local-dir:FOLDER` holds, the hash of each file; nothing for another one."""
    prefix, _, folder = model.partition(":")
    if prefix.replace("_", "-") != "local-dir":
        return []
    return [f"{file.name} {_sha256(file)}" for file in sorted(Path(folder).glob("*")) if file.is_file()]


def is_sound(path: Path) -> bool:
    """Whether a dense model lies there; a file that is none is set aside."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "numpy"):
            return True
    except Exception as error:  # safetensors' own, the system's
        disk.set_aside(path, error)
        return False


def curve(path: Path) -> dict[int, float]:
    """epochs -> top-1 on validation images, of a dense model as far as it was trained."""
    try:
        return {int(epoch): float(top1) for epoch, top1 in json.loads(released.curve_path(path).read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):  # it tells, and nothing rests on it
        return {}


def about_dense(config: Parameters) -> list[dict]:
    """What is noted of the training of the dense models that there are, if they were trained here: file, its SHA-256,
    seconds, epochs, device, commit, curve.

    Raises:
        ValueError: a file of notes is damaged; names it.
    """
    if config.pretrained or config.checkpoint:
        return []
    record = manifest.known(paths.cache(), config.upstream, config.data_path)
    seeds = dict.fromkeys(map(config.dense_seed, config.seeds)) if record else ()
    files = [dense_path(config, seed, record.fingerprint) for seed in seeds]
    return [
        _notes(file.with_suffix(".json")) | dict(curve=curve(file), file=file.name, sha256=_sha256(file))
        for file in files
        if file.is_file() and file.with_suffix(".json").is_file()
    ]


def _notes(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({disk.first_line(error)}): remove it with the model it tells of"
        ) from None


def _digest(task: Task) -> str:
    return provenance.digest(dict(task.columns))


def resume(task: Task) -> Path:
    """Where the training of a task is taken up again. Whoever has kept its rows calls `discard`."""
    return paths.cache() / f"resume-{_digest(task)}.pt"


def discard(task: Task) -> None:
    """Removes what the training of a task would be taken up from."""
    resume(task).unlink(missing_ok=True)


def claim(profile: str, task: Task) -> Path:
    """What is locked by the study, of several of one profile, that does a task."""
    number = int(_digest(task), 16) % CLAIMS
    return paths.results() / f"{profile}.task-{number:02x}"


def kept(task: Task) -> Path:
    """Where the model that a task has trained is kept, for those that begin with it."""
    return paths.cache() / f"recovered-{_digest(task)}.safetensors"


def _sha256(path: Path) -> str:
    """The hash of a dense model's file; read once for the same size and times."""
    stat = path.stat()
    return _content(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=64)
def _content(path: Path, *_: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
