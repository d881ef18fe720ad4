"""The user's own check, 0-main.py to the letter, in a folder with 0-transfer.py and cifar10.h5."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Project

# Keras's loader downloads; it is handed the images that the pipeline was measured on instead, with
# labels of shape (m, 1) as it returns them.
HAND_IN_THE_IMAGES = """
import runpy, sys
import numpy as np
import tensorflow.keras as K
images, data = (np.load(f"{sys.argv[1]}/{name}") for name in ("images.npy", "labels.npz"))
def load_data():
    return None, (images[data["test"]], data["labels"][data["test"], None])
K.datasets.cifar10.load_data = load_data
sys.path.insert(0, ".")
runpy.run_path("0-main.py", run_name="__main__")
"""


def accuracy_of_the_check(project: Path, folder: Path) -> float:
    """Run the check in an otherwise empty folder and return the accuracy that it prints last."""
    shutil.copy(PROJECT / "tests/0-main.py", folder)
    shutil.copy(project / "0-transfer.py", folder)
    shutil.copy(project / "cifar10.h5", folder)
    processed = str(project / "data/processed")
    run = Project(folder, folder).run(sys.executable, "-c", HAND_IN_THE_IMAGES, processed)
    assert run.returncode == 0, run.stderr
    return float(re.findall(r"accuracy: ([0-9.]+)", run.stdout)[-1])


def test_it_prints_the_accuracy_of_metrics_json(finished: Project, tmp_path: Path) -> None:
    measured = json.loads((finished.folder / "metrics.json").read_text())["val_accuracy"]
    assert accuracy_of_the_check(finished.folder, tmp_path) == pytest.approx(measured, abs=5e-5)


@pytest.mark.real
def test_on_the_real_images_it_prints_what_the_gate_passed(tmp_path: Path) -> None:
    measured = json.loads((PROJECT / "metrics.json").read_text())["val_accuracy"]
    printed = accuracy_of_the_check(PROJECT, tmp_path)
    assert printed == pytest.approx(measured, abs=5e-5)
    assert printed >= 0.87
