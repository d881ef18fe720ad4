"""The Keras applications that this pipeline serves: one table, read by code, schema and tests.

No TensorFlow here: params.yaml is checked against this table before anything slow is imported.
Sizes and preprocessing are those of the docstrings and sources of `keras.applications`, Keras 3.15.
"""

from typing import Literal, NamedTuple

Preprocessing = Literal["inside", "tf", "torch", "caffe"]


class Application(NamedTuple):
    """One constructor in `keras.applications`.

    Attributes:
        name: the constructor's name.
        module: its module under `keras.applications`, which also names the files of its weights.
        minimum_size: the smallest image side without its top, in pixels.
        preprocessing: what its ImageNet weights expect of an RGB image in [0, 255]. "inside": the
            net does it; "tf": scaled to [-1, 1]; "torch": scaled to [0, 1], then standardised by
            ImageNet's mean and deviation; "caffe": BGR, ImageNet's mean subtracted.
    """

    name: str
    module: str
    minimum_size: int
    preprocessing: Preprocessing


APPLICATIONS: dict[str, Application] = {
    application.name: application
    for application in (
        Application("DenseNet121", "densenet", 32, "torch"),
        Application("DenseNet169", "densenet", 32, "torch"),
        Application("DenseNet201", "densenet", 32, "torch"),
        Application("EfficientNetB0", "efficientnet", 32, "inside"),
        Application("EfficientNetB1", "efficientnet", 32, "inside"),
        Application("EfficientNetV2B0", "efficientnet_v2", 32, "inside"),
        Application("EfficientNetV2B1", "efficientnet_v2", 32, "inside"),
        Application("InceptionV3", "inception_v3", 75, "tf"),
        Application("MobileNet", "mobilenet", 32, "tf"),
        Application("MobileNetV2", "mobilenet_v2", 32, "tf"),
        Application("ResNet50", "resnet", 32, "caffe"),
        Application("ResNet50V2", "resnet_v2", 32, "tf"),
        Application("VGG16", "vgg16", 32, "caffe"),
        Application("Xception", "xception", 71, "tf"),
    )
}
