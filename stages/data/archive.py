"""The CIFAR-10 archive, "Python version": read with a restricted unpickler, then validated.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. Six batches, pickled by Python 2: a dictionary
with `data`, uint8 (n, 3072), channel after channel, and `labels`, a list of n integers; and
`batches.meta` with `label_names`.
"""

import pickle
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.errors import PipelineError, reason
from stages.files import reading

TRAIN_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
TEST_BATCH = "test_batch"
META = "batches.meta"
CLASSES = 10
EXPECTED = "all of cifar-10-python.tar.gz, with its digest in params.yaml as download.sha256"
# Formats other than tar, by first bytes.
KINDS = {b"PK": "a zip file", b"\x1f\x8b": "a gzip file without a tar"}
# Globals that arrays need; unpickling can call any global, so others are rejected.
ARRAYS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# For the model card.
NOTES = """\
- Some labels of CIFAR-10 are wrong or debatable, and 3.3% of its test images have near-duplicates
  among the training images ([Barz and Denzler 2020](https://arxiv.org/abs/1902.00423)).
- **License of the images:** CIFAR-10 has none; its authors ask to be cited: Krizhevsky 2009,
  Learning Multiple Layers of Features from Tiny Images,
  <https://www.cs.toronto.edu/~kriz/cifar.html>.
"""

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


class Cifar10(NamedTuple):
    """The archive's content, in its order: images (n, 32, 32, 3), labels (n,) in [0, 9].

    The training images are those of batches 1 to 5; class names are in the order of the labels;
    names are such as "data_batch_1/0", of the test images last.
    """

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: list[str]
    names: list[str]


def read(archive: Path) -> Cifar10:
    """Read and check the archive, a tar file, in memory; nothing is extracted.

    Raises:
        PipelineError: it is not a complete tar file; a file in it is missing or not CIFAR-10's.
        OSError: it is missing or may not be read.
    """
    wanted = [*TRAIN_BATCHES, TEST_BATCH, META]
    contents: dict[str, Any] = {}
    with reading(archive):
        if not tarfile.is_tarfile(archive):
            found = KINDS.get(archive.read_bytes()[:2], "an unknown format")
            expected = f"expected a tar file, compressed at most once: {EXPECTED}"
            raise PipelineError(f"{archive}: {found}; {expected}")
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name not in wanted:
                    continue
                try:
                    content = _unpickle(tar, member)
                    contents[name] = _class_names(content) if name == META else _batch(content)
                except Exception as error:  # a damaged pickle can raise any
                    message = f"{archive}: {name}: expected a file of CIFAR-10: {reason(error)}"
                    raise PipelineError(message) from error

    if missing := [name for name in wanted if name not in contents]:
        raise PipelineError(f"{archive}: lacks {', '.join(missing)}; expected {EXPECTED}")
    x_train = np.concatenate([contents[name][0] for name in TRAIN_BATCHES])
    y_train = np.concatenate([contents[name][1] for name in TRAIN_BATCHES])
    x_test, y_test = contents[TEST_BATCH]
    names = [f"{name}/{i}" for name in wanted[:-1] for i in range(len(contents[name][1]))]
    return Cifar10(x_train, y_train, x_test, y_test, contents[META], names)


def _unpickle(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        raise ValueError("not a regular file")
    content = _Unpickler(file, encoding="bytes").load()
    return {_text(key): value for key, value in content.items()}


def _text(string: bytes | str) -> str:
    """Decode a string of Python 2."""
    return string.decode("utf-8", "replace") if isinstance(string, bytes) else string


def _batch(content: dict[str, Any]) -> tuple[Images, Labels]:
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"data is {got}, not uint8 (n, 3072)")
    if not isinstance(labels, list) or not 0 < len(labels) == len(data):
        got = f"{len(labels)} labels" if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"{got} for {len(data)} images, expected a list of {len(data)}")
    for label in labels:
        if type(label) is not int or not 0 <= label < CLASSES:
            got = str(label) if isinstance(label, int | float) else type(label).__name__
            raise ValueError(f"label {got}, not an integer from 0 to {CLASSES - 1}")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)


def _class_names(content: dict[str, Any]) -> list[str]:
    names = [_text(name) for name in content.get("label_names", [])]
    if len(set(names)) != len(names) or list(map(type, names)) != [str] * CLASSES:
        raise ValueError(f"label_names holds {len(names)}, expected {CLASSES} distinct strings")
    return names


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # as NumPy 1 calls it
        if (module, name) not in ARRAYS:
            raise ValueError(f"references {f'{module}.{name}'!r:.80}; only NumPy arrays allowed")
        return super().find_class(module, name)
