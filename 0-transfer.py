#!/usr/bin/env python3
"""Train a classifier of CIFAR-10 by transfer learning and save it as cifar10.h5 in this folder.

`main` runs the pipeline in this file's folder through DVC, which reuses cached results.
`preprocess_data` needs nothing but NumPy: this file and cifar10.h5 can be used alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CLASSES = 10
MODEL = "cifar10.h5"
PROJECT = Path(__file__).resolve().parent


def preprocess_data(
    X: npt.ArrayLike,  # noqa: N803 - the names that the exercise gives
    Y: npt.ArrayLike,  # noqa: N803
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Pre-process CIFAR-10 for the model: images to float32, labels to one-hot.

    Resizing and the backbone's own scaling are layers of cifar10.h5, so the values stay the same.

    Args:
        X: images, integers or floats in [0, 255], of shape (m, 32, 32, 3).
        Y: labels, integers in [0, 9], of shape (m,) or (m, 1).

    Returns:
        X_p, float32 (m, 32, 32, 3) in [0, 255], and Y_p, float32 (m, 10), one-hot.

    Raises:
        ValueError: a shape, a dtype or a value is none of these. Floats that all lie in [0, 1] only
            give a warning, because such images could be black.
    """
    import numpy as np  # here, so that `main` can start without NumPy

    images, labels = np.asarray(X), np.asarray(Y)
    if images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise ValueError(f"X has shape {images.shape}, expected (m, 32, 32, 3)")
    if images.dtype.kind not in "uif":
        raise ValueError(f"X has dtype {images.dtype}, expected integers or floats in [0, 255]")
    if images.size and not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(f"X spans {images.min()} to {images.max()}, expected [0, 255]")
    if images.dtype.kind == "f" and images.size and images.max() <= 1:
        warnings.warn("X lies in [0, 1], expected [0, 255]: multiply it by 255", stacklevel=2)
    if labels.shape not in ((len(images),), (len(images), 1)):
        m = len(images)
        raise ValueError(f"Y has shape {labels.shape}, expected ({m},) or ({m}, 1) as X has {m}")
    if labels.dtype.kind not in "ui":
        raise ValueError(f"Y has dtype {labels.dtype}, expected integers in [0, {CLASSES - 1}]")
    labels = labels.reshape(-1)
    wrong = labels[(labels < 0) | (labels >= CLASSES)]
    if wrong.size:
        raise ValueError(f"Y has the label {wrong[0]}, expected integers in [0, {CLASSES - 1}]")
    return images.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]


def main() -> None:
    """Bring the model up to date and copy it to the current folder.

    The stages are the textbook's steps: build the net from `keras.applications` (backbone), freeze
    its first layers and compute their output once (features), train a new head on top (train_head),
    unfreeze the layers after the cut and continue training (fine_tune), save.
    """
    check_surroundings()
    run("stages", "check")
    check_data_set()
    run("dvc", "repro", "fine_tune")
    save(PROJECT / MODEL, Path.cwd() / MODEL)


def run(*command: str) -> None:
    """Run `python -m` in the project; exit if it fails."""
    command = (sys.executable, "-m", *command)
    status = subprocess.run(command, cwd=PROJECT, env=environment(), check=False).returncode
    if status:
        sys.exit(status)


def check_data_set() -> None:
    """Exit if params.yaml, which is valid, names other images than CIFAR-10's."""
    from stages import params

    if (name := params.load(PROJECT / params.PARAMS).data.name) != "cifar10":
        sys.exit(
            f"error: data.name in params.yaml is {name}; this file trains {MODEL}: set it to "
            f"cifar10, or run `make reproduce` for {name}.h5"
        )


def check_surroundings() -> None:
    """Exit early with one line where a run would fail after minutes."""
    if len(sys.argv) > 1:
        sys.exit(f"error: {sys.argv[1:]}: expected no arguments; settings are in params.yaml")
    if not (PROJECT / "stages").is_dir():
        sys.exit(f"error: training needs the whole project, {PROJECT} has no folder stages")
    if not importlib.util.find_spec("dvc"):
        sys.exit(
            f"error: {sys.executable} lacks dvc; run `make reproduce`, then `source "
            f"{PROJECT / '.venv/bin/activate'}`"
        )
    if not os.access(Path.cwd(), os.W_OK) or Path(MODEL).is_dir():
        sys.exit(f"error: {Path.cwd() / MODEL} cannot be written; go to a folder where it can be")


def environment() -> dict[str, str]:
    """Return the environment that DVC needs: this Python first in PATH, USER, HOME.

    A user id in a container may lack the last two.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = {"USER": str(os.getuid()), **os.environ, "PATH": path}
    if not os.access(variables.get("HOME", ""), os.W_OK):
        variables["HOME"] = str(PROJECT / ".venv")
    mirror = variables.get("MIRROR")
    if mirror and Path(mirror).is_dir():  # relative to the current folder
        variables["MIRROR"] = str(Path(mirror).resolve())
    return variables


def save(source: Path, target: Path) -> None:
    """Copy the finished model to the current folder, atomically."""
    if not (target.exists() and target.samefile(source)):
        try:
            # Another run may save here at the same time.
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as own:
                shutil.copyfile(source, Path(own, target.name)).replace(target)
        except OSError as error:
            sys.exit(f"error: {target}: {error.strerror}; the model is in {source}")
    print(f"saved {target}")


def provide_learning_phase() -> None:
    """Give `keras.backend` the name `learning_phase`, which Keras 3 dropped.

    tests/0-main.py reads that name right after it imports this file. A Keras that nobody has
    imported yet is left alone, so that `preprocess_data` needs no TensorFlow.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and not hasattr(tensorflow.keras.backend, "learning_phase"):
        tensorflow.keras.backend.learning_phase = lambda: 0


provide_learning_phase()

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # the stage has reported it
