"""The saved classifier with fewer operations, for many images."""

import keras

from stages.nets.folding import folded


def fast(classifier: keras.Model) -> keras.Model:
    """Return a model that predicts the same as a loaded classifier, up to float32 rounding.

    Its normalizations are folded into convolutions, which takes about a second. It shares the
    other layers, and is for inference only.

    Args:
        classifier: as of `stages.classifier.classifier`; if its second-to-last layer is `Average`,
            it averages the features of image and mirror image.
    """
    average = classifier.layers[-2]
    if not isinstance(average, keras.layers.Average):
        return folded(classifier)
    features = folded(keras.Model(classifier.input, average.input[0]))
    images = keras.Input(classifier.input_shape[1:])
    pooled = (features(images) + features(images[:, :, ::-1])) / 2
    return keras.Model(images, classifier.layers[-1](pooled))
