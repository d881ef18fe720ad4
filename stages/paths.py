"""Paths of outputs, relative to the project's folder."""

from pathlib import Path

PHOTOS = Path("data/images")  # a folder for each data set, named as data.name in params.yaml
CIFAR10 = "cifar10"
ARCHIVE = PHOTOS / CIFAR10 / "cifar-10-python.tar.gz"
WEIGHTS = Path("data/backbone/backbone.weights.h5")
IMAGES = Path("data/processed/images.npy")
LABELS = Path("data/processed/labels.npz")
ABOUT = Path("data/processed/about.json")
SKIPPED = Path("data/processed/skipped.csv")
FEATURES = Path("data/features")
KEYS = Path("data/keys")  # of the rows of data/features
HEAD = Path("data/head/head.npz")
HEAD_CURVE = Path("data/head/curve.csv")
FINE_TUNE_CURVE = Path("data/fine_tune/curve.csv")
CLASS_ACCURACY = Path("data/evaluate/class_accuracy.csv")
PROBABILITIES = Path("data/evaluate/probabilities.npz")
ENVIRONMENT = Path("data/evaluate/environment.json")
METRICS = Path("metrics.json")
MODEL_CARD = Path("MODEL_CARD.md")
REPORT = Path("data/report")
# Not DVC outputs: what interrupted stages resume from.
DOWNLOADS = Path("data/checkpoint")
CHECKPOINT = Path("data/checkpoint/fine_tune.npz")
KEPT_FEATURES = Path("data/checkpoint/features")


def model(name: str) -> Path:
    """Return the model of a data set, `data.name` in params.yaml."""
    return Path(f"{name}.h5")


def train_view(number: int, folder: Path = FEATURES) -> Path:
    """Return the activations of one view of the training images: float16 (n, h, w, channels)."""
    return folder / f"train_view{number}.npy"


def dev_features(folder: Path = FEATURES) -> Path:
    """Return the activations of the plain dev images: float16 (n, h, w, channels)."""
    return folder / "dev.npy"
