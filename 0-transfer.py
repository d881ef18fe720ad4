#!/usr/bin/env python3
"""Train a classifier of CIFAR-10 by transfer learning and save it as cifar10.h5 in this folder.

`main` is the textbook's five steps. Each is a stage of the pipeline that lies beside this file, run
through DVC, so that what has been computed once is taken from its cache. `preprocess_data` needs
nothing but NumPy: this file and cifar10.h5 can be used alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CLASSES = 10
INTERRUPTED = "interrupted; the next run goes on from there"
MODEL = "cifar10.h5"
NEEDED = ("dvc", "h5py", "pooch", "pydantic", "requests", "tensorflow", "tqdm", "yaml")
REENTERED = "CIFAR10_TRANSFER_REENTERED"
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
        ValueError: a shape, a dtype or a value is none of these.
    """
    import numpy as np  # here, so that `main` can start in a Python that has nothing

    images, labels = np.asarray(X), np.asarray(Y)
    if images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise ValueError(f"X has shape {images.shape}, expected (m, 32, 32, 3)")
    if images.dtype.kind not in "uif":
        raise ValueError(f"X has dtype {images.dtype}, expected integers or floats in [0, 255]")
    if images.size and not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(f"X spans {images.min()} to {images.max()}, expected [0, 255]")
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
    """Build, freeze, train the head, fine-tune, save."""
    check_surroundings()
    use_project_environment()
    from stages.transfer.launcher import quiet_stderr
    from stages.transfer.reproduction import remove_broken_lock, reproduce
    from stages.transfer.signals import ending_at_once, ending_on_signals

    with ending_on_signals():
        with ending_at_once(INTERRUPTED), quiet_stderr():
            from stages import backbone, download, features, fine_tune, preprocess, train_head
        remove_broken_lock(PROJECT)
        # The data: CIFAR-10, with part of its training images held out for every choice.
        reproduce(PROJECT, download.main)
        reproduce(PROJECT, preprocess.main)
        # Build: an application from keras.applications, with what it learnt on ImageNet.
        reproduce(PROJECT, backbone.main)
        # Freeze its first layers. Their output never changes again: it is computed once and kept.
        reproduce(PROJECT, features.main)
        # Train a new head on top, everything below it frozen.
        reproduce(PROJECT, train_head.main)
        # Fine-tune: unfreeze the layers after the cut and train them on, together with the head.
        reproduce(PROJECT, fine_tune.main)
        # Save: prefix, suffix and head as one compiled model, in the current folder.
        save(PROJECT / MODEL, Path.cwd() / MODEL)


def check_surroundings() -> None:
    """Refuse in one line, before any work, what would fail after minutes of it."""
    if len(sys.argv) > 1:
        sys.exit(f"error: {sys.argv[1:]}: expected no arguments; settings stand in params.yaml")
    if not (PROJECT / "stages").is_dir():
        sys.exit(f"error: training needs the whole project, {PROJECT} has no folder stages")
    if not os.access(Path.cwd(), os.W_OK) or Path(MODEL).is_dir():
        sys.exit(f"error: {Path.cwd() / MODEL} cannot be written; go to a folder where it can be")
    mirror = os.environ.get("MIRROR")
    if mirror and Path(mirror).is_dir():  # seen from here, not from the project
        os.environ["MIRROR"] = str(Path(mirror).resolve())


def use_project_environment() -> None:
    """Go on in the project's `.venv` if this interpreter lacks what the stages need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json says
    if all(importlib.util.find_spec(name) for name in NEEDED):
        return
    python = PROJECT / ".venv/bin/python"
    if not python.exists() or os.environ.get(REENTERED):
        sys.exit(f"error: {sys.executable} lacks a required package; run `make reproduce` first")
    os.environ[REENTERED] = "1"
    if hasattr(signal, "pthread_sigmask"):  # a Ctrl-C during Python's start waits for its handler
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(python, [str(python), __file__, *sys.argv[1:]])  # noqa: S606


def save(source: Path, target: Path) -> None:
    """Copy the finished model to the current folder, whole or not at all."""
    if not (target.exists() and target.samefile(source)):
        partial = target.with_name(f".partial-{target.name}")
        try:
            shutil.copyfile(source, partial)
            partial.replace(target)
        except OSError as error:
            sys.exit(f"error: {target}: {error.strerror}; the model is in {source}")
        finally:
            partial.unlink(missing_ok=True)
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
    except KeyboardInterrupt as interrupted:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(128 + getattr(interrupted, "number", 2))
