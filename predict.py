#!/usr/bin/env python3
"""Print the most probable classes of photos: `python predict.py photo.jpg folder`.

The model is that of `data.name` in params.yaml, or --model. stages/data/photos.py reads photos as
preprocess reads images, in the model's input size. Slow imports are inside functions, after the
Ctrl-C handler is set.
"""

import argparse
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import stages  # noqa: F401 - sets what TensorFlow reads from the environment
from stages.errors import PipelineError

PROJECT = Path(__file__).resolve().parent
NOTE = "Images unlike the training images, or of no class, also get class probabilities."
BATCH = 32  # photos
MANY = 2_000  # number of photos from which `fast` pays off


def main() -> int:
    """Classify what is named; return 1 if a named file cannot be read, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], epilog=NOTE)
    parser.add_argument("images", nargs="*", help="image files, folders of them")
    parser.add_argument("--json", action="store_true", help="print all probabilities, as JSON")
    parser.add_argument("--model", type=Path, help="an .h5 of this project; default: data.name's")
    arguments = parser.parse_args()
    if not arguments.images:
        raise PipelineError("no image; expected image files or folders, as in IMAGE=photo.jpg")
    found: dict[Path, None] = {}
    failed = False
    for argument in arguments.images:
        try:
            found |= dict.fromkeys(files(argument))
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
    if found:
        named = found.keys() & set(map(Path, arguments.images))
        failed |= not classify(arguments.model or default(), list(found), named, arguments.json)
    return int(failed)


def default() -> Path:
    """Return the model of the data set that params.yaml names."""
    from stages import params, paths

    try:
        return PROJECT / paths.model(params.load(PROJECT / params.PARAMS).data.name)
    except OSError as error:
        raise PipelineError(f"{error.filename}: {error.strerror}; name a --model") from error


def files(argument: str) -> list[Path]:
    """Return the path itself, or the files in the folder."""
    from stages.data.photos import printable, walk

    if argument in ("", "-"):
        raise PipelineError(f"{argument!r}: expected files or folders; standard input is not read")
    if "://" in argument:
        raise PipelineError(f"{printable(argument)}: a URL; expected a file, download it first")
    if not (found := list(walk(Path(argument)))):
        raise PipelineError(f"{printable(argument)}: an empty folder; expected images in it")
    return found


def classify(model_path: Path, paths: list[Path], named: set[Path], as_json: bool) -> bool:
    """Print the three most probable classes of each photo, batch by batch; as JSON, all at the end.

    Return whether all of `named` could be read. The other paths need not be images.
    """
    import numpy as np
    from tqdm import tqdm

    from stages.data.photos import printable, read

    names, size, aspect = description(model_path)
    width, longest = max(map(len, names)), max(len(printable(path)) for path in paths)
    model = None
    table, failed = {}, set()
    bar = tqdm(total=len(paths), unit=" photos", disable=None if as_json else True)
    # Few threads, because each can hold an image of 179 megapixels.
    with bar, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), BATCH):
            images = {}
            batch = paths[start : start + BATCH]
            for path, image in [(path, pool.submit(read, path, size, aspect)) for path in batch]:
                try:
                    images[path] = image.result()
                except PipelineError as error:
                    tqdm.write(f"{'error' if path in named else 'skipped'}: {error}", sys.stderr)
                    failed.add(path)
                bar.update()
            if not images:
                continue
            model = model or load(model_path, len(paths))
            x = np.stack(list(images.values())).astype(np.float32)
            for path, probabilities in zip(images, model.predict_on_batch(x).tolist(), strict=True):
                row = sorted(zip(probabilities, names, strict=True), reverse=True)
                table[str(path)] = {name: p for p, name in row}
                if not as_json:
                    best = (f"{name:{width}} {p:.3f}" for p, name in row[:3])
                    print(f"{printable(path):{longest}}", *best, sep="   ", flush=True)
    if not table and not named:
        raise PipelineError(f"no readable image in {len(paths)} files; name others")
    if table:
        print(json.dumps(table) if as_json else NOTE)
    return not failed & named


def description(model: Path) -> tuple[list[str], tuple[int, int], str]:
    """Return class names, in the order of the outputs, (height, width), and the aspect."""
    import h5py

    from stages.files import reading

    if not model.exists():
        raise PipelineError(f"{model} is missing; `make reproduce` makes it")
    with reading(model), h5py.File(model) as file:
        if missing := {"class_names", "image_size"} - set(file.attrs):
            lacks = " and ".join(sorted(missing))
            raise PipelineError(f"{model} lacks {lacks}; run `make reproduce`")
        height, width = map(int, file.attrs["image_size"])
        aspect = str(file.attrs.get("aspect", "crop"))
        return json.loads(file.attrs["class_names"]), (height, width), aspect


def load(model: Path, photos: int) -> Any:
    """Return the Keras model without optimizer and metrics, about which Keras would warn."""
    import keras

    from stages.files import reading
    from stages.inference import fast

    with reading(model):
        loaded = keras.models.load_model(model, compile=False)
    return fast(loaded) if photos >= MANY else loaded


def interrupted(*_: object) -> None:
    """End at once; KeyboardInterrupt can be swallowed while TensorFlow is imported."""
    os.write(2, b"\n" * os.isatty(2) + b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # predict.py folder | head
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.exit(main())
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except ImportError as error:
        sys.exit(f"error: {sys.executable}: {error}; `source .venv/bin/activate` first")
