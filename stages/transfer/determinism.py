"""Same input, same bits."""

import keras
import tensorflow as tf

from stages.transfer.environment import PRECISION


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and let TensorFlow use only reproducible operations.

    The same machine then gives the same bits; another processor may round otherwise.
    """
    # A user's ~/.keras/keras.json may say otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx(PRECISION)
    keras.config.set_epsilon(1e-7)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
