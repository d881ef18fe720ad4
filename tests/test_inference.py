"""Inference: the outputs of `model.predict`, for any batch size."""

import keras
import numpy as np
import pytest

from stages.nets.inference import predict


@pytest.mark.parametrize("batch_size", [1, 4, 10, 32])
def test_outputs_are_those_of_keras(batch_size: int) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    x = np.random.default_rng(1).normal(size=(10, 8, 8, 3)).astype(np.float16)  # as features are
    found = predict(model, x, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
