"""Inference: the outputs of `model.predict`, for any batch size."""

import keras
import numpy as np
import pytest

from stages.transfer.inference import batched, predict


@pytest.mark.parametrize("batch_size", [1, 4, 10, 32])
def test_outputs_are_those_of_keras(batch_size: int) -> None:
    keras.utils.set_random_seed(1)
    images = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    model = keras.Model(images, keras.layers.Dense(2)(pooled))
    x = np.random.default_rng(1).normal(size=(10, 8, 8, 3)).astype(np.float16)  # as features are
    expected = model.predict(x, batch_size=10, verbose=0)
    found = predict(model, x, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_tuned_and_the_order_stays() -> None:
    dataset = batched((np.arange(10), np.arange(10) * 2), 4)
    assert dataset.options().autotune.enabled is False
    batches = [(x.numpy().tolist(), y.numpy().tolist()) for x, y in dataset]
    assert [x for x, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [y for _, y in batches] == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
