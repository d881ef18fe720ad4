"""Paths of outputs, relative to the project's folder."""

from pathlib import Path

ARCHIVE = Path("data/raw/cifar-10-python.tar.gz")
WEIGHTS = Path("data/backbone/backbone.weights.h5")
DATASET = Path("data/processed/cifar10.npz")
DEV_INDEX = Path("data/processed/dev_index.npy")
FEATURES = Path("data/features")
HEAD = Path("data/head/head.npz")
HEAD_CURVE = Path("data/head/curve.csv")
MODEL = Path("cifar10.h5")
FINE_TUNE_CURVE = Path("data/fine_tune/curve.csv")
CONFUSION = Path("data/evaluate/confusion.csv")
CLASS_ACCURACY = Path("data/evaluate/class_accuracy.csv")
PROBABILITIES = Path("data/evaluate/probabilities.npz")
ENVIRONMENT = Path("data/evaluate/environment.json")
METRICS = Path("metrics.json")
MODEL_CARD = Path("MODEL_CARD.md")
REPORT = Path("data/report")
# Not a DVC output: the checkpoint for resuming fine_tune.
CHECKPOINT = Path("data/checkpoint/fine_tune.npz")


def train_view(number: int, folder: Path = FEATURES) -> Path:
    """Return the activations of one view of the training images: float16 (n, h, w, channels)."""
    return folder / f"train_view{number}.npy"


def dev_features(folder: Path = FEATURES) -> Path:
    """Return the activations of the plain dev images: float16 (n, h, w, channels)."""
    return folder / "dev.npy"
