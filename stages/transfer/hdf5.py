"""Keras's HDF5 files, made in memory and then written.

Let loose on a disk that fills up, HDF5 loses data without an exception, prints tracebacks by the
hundred, and the process crashes when it ends.
"""

import io
from pathlib import Path

import h5py
import keras
from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib

from stages.transfer.files import replacing


def save_model(model: keras.Model, path: Path) -> None:
    """Write what `model.save` does, an .h5 file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        legacy_h5_format.save_model_to_hdf5(model, file)
    _write(image, path)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write what `model.save_weights` does, a .weights.h5 file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    image = io.BytesIO()
    store = saving_lib.H5IOStore(image, mode="w")
    saving_lib._save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    store.close()
    _write(image, path)


def _write(image: io.BytesIO, path: Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(image.getbuffer())
