"""Activations at the cut: computed once, stored as float16."""

from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from stages.errors import PipelineError

if TYPE_CHECKING:
    from stages.data.dataset import Rows
    from stages.data.views import View


def compute(
    prefix: keras.Model, images: "npt.NDArray | Rows | View", path: Path, batch_size: int
) -> None:
    """Run images (n, ...) through a frozen model, in inference mode, and store the output.

    The file is .npy: float16 (n, *prefix.output_shape[1:]).

    Raises:
        PipelineError: a value exceeds float16's range (65,504).
        OSError: they do not fit on the disk.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
        "fortran_order": False,
        "shape": (len(images), *prefix.output_shape[1:]),
    }
    progress = tqdm(total=len(images), unit="image", desc=path.stem, mininterval=2, disable=None)
    # write(), not a memory map: a full disk raises OSError instead of SIGBUS.
    with path.open("wb") as file, progress, np.errstate(over="ignore"):
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(images), batch_size):
            batch = prefix.predict_on_batch(images[start : start + batch_size])
            stored = batch.astype(np.float16)
            if not np.isfinite(stored).all():
                raise PipelineError(
                    f"{path.stem}: an activation of {np.abs(batch).max():.3g} does not fit float16 "
                    "(65504 at the most); choose another backbone.cut"
                )
            file.write(stored.data)
            progress.update(len(batch))
    print(f"{path.stem}: {len(images)} images, {path.stat().st_size / 2**20:.0f} MiB", flush=True)
