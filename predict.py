#!/usr/bin/env python3
"""Say what cifar10.h5, beside this file, takes photos for: `python predict.py photo.jpg folder`.

A photo of any size becomes what the model was trained on, 32x32 in red, green and blue: it is
turned as its EXIF says, what is transparent is laid on white, the square in its centre is cut out
and shrunk by Pillow's Lanczos filter, which averages over all pixels that it drops.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

import stages  # noqa: F401 - sets what TensorFlow reads from the environment
from stages.errors import PipelineError, reason
from stages.files import reading

MODEL = Path(__file__).resolve().with_name("cifar10.h5")
CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
NOTE = "Photos are not CIFAR-10: whatever is on one, the model names one of its ten classes."


def read(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image file as the model takes it.

    Returns:
        uint8 (32, 32, 3), red green blue.

    Raises:
        PipelineError: the file is missing, damaged, or no image that Pillow reads.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits, which Pillow's `convert` would cut off at 255
            image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).round().astype(np.uint8))
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.LANCZOS))
    except Exception as error:  # each of Pillow's formats has its own for a damaged file
        raise PipelineError(f"{path}: {reason(error)}; expected an image") from error


def files(path: Path) -> list[Path]:
    """Return the path itself, or of a folder the images that lie in it."""
    if not path.is_dir():
        return [path]
    suffixes = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if Image.MIME.get(kind, "").startswith("image/")  # not PDF or HDF5, which Pillow names too
    }
    return sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)


def main() -> int:
    """Print the likeliest classes of each image; return 1 if one could not be read, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], epilog=NOTE)
    parser.add_argument("images", nargs="*", type=Path, help="image files, folders of them")
    parser.add_argument("--json", action="store_true", help="print all probabilities, as JSON")
    arguments = parser.parse_args()
    paths = [file for path in arguments.images for file in files(path)]
    if not paths:
        raise PipelineError("no image; expected image files or folders, as in IMAGE=photo.jpg")
    if not MODEL.exists():
        raise PipelineError(f"{MODEL} is missing; `make reproduce` makes it")
    images = {}
    for path in paths:
        try:
            images[path] = read(path)
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr)
    if images:
        show(images, arguments.json)
    return int(len(images) < len(set(paths)))


def show(images: dict[Path, npt.NDArray[np.uint8]], as_json: bool) -> None:
    """Print the three likeliest classes of each image, or all ten as JSON, likeliest first."""
    import keras  # here and not above, because both take seconds

    from stages.nets.inference import predict

    with reading(MODEL):
        model = keras.models.load_model(MODEL)
    x = np.stack(list(images.values())).astype(np.float32)
    found = {
        str(path): sorted(zip(map(float, of_image), CLASS_NAMES, strict=True), reverse=True)
        for path, of_image in zip(images, predict(model, x, 64), strict=True)
    }
    if as_json:
        print(json.dumps({path: {name: p for p, name in row} for path, row in found.items()}))
        return
    width = max(map(len, found))
    for path, row in found.items():
        print(f"{path:{width}}", *(f"{name:10} {p:.3f}" for p, name in row[:3]), sep="   ")
    print(NOTE)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PipelineError as error:
        sys.exit(f"error: {error}")
