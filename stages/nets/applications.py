"""The applications in `keras.applications`: one table, used by code, schema and tests.

Does not import TensorFlow: params.yaml is checked against this table before anything slow is
imported. Sizes and preprocessing are those of the sources of `keras.applications`, Keras 3.15.
`make backbones` prints it.
"""

import difflib
from typing import Literal, NamedTuple

from stages.errors import PipelineError

Preprocessing = Literal["inside", "tf", "torch", "caffe"]


class Application(NamedTuple):
    """One constructor in `keras.applications`.

    Attributes:
        module: its module under `keras.applications`, which also names the files of its weights.
        minimum_size: the smallest image side without its top, in pixels.
        native_size: the image side that its ImageNet top takes, in pixels.
        preprocessing: what its ImageNet weights expect of an RGB image in [0, 255]. "inside": the
            net does it; "tf": scaled to [-1, 1]; "torch": scaled to [0, 1], then standardized by
            ImageNet's mean and standard deviation; "caffe": BGR, ImageNet's mean subtracted.
    """

    name: str
    module: str
    minimum_size: int
    native_size: int
    preprocessing: Preprocessing


APPLICATIONS: dict[str, Application] = {
    application.name: application
    for application in (
        Application("ConvNeXtTiny", "convnext", 32, 224, "inside"),
        Application("ConvNeXtSmall", "convnext", 32, 224, "inside"),
        Application("ConvNeXtBase", "convnext", 32, 224, "inside"),
        Application("ConvNeXtLarge", "convnext", 32, 224, "inside"),
        Application("ConvNeXtXLarge", "convnext", 32, 224, "inside"),
        Application("DenseNet121", "densenet", 32, 224, "torch"),
        Application("DenseNet169", "densenet", 32, 224, "torch"),
        Application("DenseNet201", "densenet", 32, 224, "torch"),
        Application("EfficientNetB0", "efficientnet", 32, 224, "inside"),
        Application("EfficientNetB1", "efficientnet", 32, 240, "inside"),
        Application("EfficientNetB2", "efficientnet", 32, 260, "inside"),
        Application("EfficientNetB3", "efficientnet", 32, 300, "inside"),
        Application("EfficientNetB4", "efficientnet", 32, 380, "inside"),
        Application("EfficientNetB5", "efficientnet", 32, 456, "inside"),
        Application("EfficientNetB6", "efficientnet", 32, 528, "inside"),
        Application("EfficientNetB7", "efficientnet", 32, 600, "inside"),
        Application("EfficientNetV2B0", "efficientnet_v2", 32, 224, "inside"),
        Application("EfficientNetV2B1", "efficientnet_v2", 32, 240, "inside"),
        Application("EfficientNetV2B2", "efficientnet_v2", 32, 260, "inside"),
        Application("EfficientNetV2B3", "efficientnet_v2", 32, 300, "inside"),
        Application("EfficientNetV2S", "efficientnet_v2", 32, 384, "inside"),
        Application("EfficientNetV2M", "efficientnet_v2", 32, 480, "inside"),
        Application("EfficientNetV2L", "efficientnet_v2", 32, 480, "inside"),
        Application("InceptionResNetV2", "inception_resnet_v2", 75, 299, "tf"),
        Application("InceptionV3", "inception_v3", 75, 299, "tf"),
        Application("MobileNet", "mobilenet", 32, 224, "tf"),
        Application("MobileNetV2", "mobilenet_v2", 32, 224, "tf"),
        Application("MobileNetV3Small", "mobilenet_v3", 32, 224, "inside"),
        Application("MobileNetV3Large", "mobilenet_v3", 32, 224, "inside"),
        Application("NASNetMobile", "nasnet", 32, 224, "tf"),
        Application("NASNetLarge", "nasnet", 32, 331, "tf"),
        Application("ResNet50", "resnet", 32, 224, "caffe"),
        Application("ResNet101", "resnet", 32, 224, "caffe"),
        Application("ResNet152", "resnet", 32, 224, "caffe"),
        Application("ResNet50V2", "resnet_v2", 32, 224, "tf"),
        Application("ResNet101V2", "resnet_v2", 32, 224, "tf"),
        Application("ResNet152V2", "resnet_v2", 32, 224, "tf"),
        Application("VGG16", "vgg16", 32, 224, "caffe"),
        Application("VGG19", "vgg19", 32, 224, "caffe"),
        Application("Xception", "xception", 71, 299, "tf"),
    )
}


def check(name: str, image_size: int) -> None:
    """Reject a name or a size that no backbone can be built from.

    Raises:
        PipelineError: no application has the name, or it takes larger images only.
    """
    if name not in APPLICATIONS:
        near = ", ".join(difflib.get_close_matches(name, APPLICATIONS, 3, cutoff=0.0))
        raise PipelineError(
            f"params.yaml: backbone.name = {name!r:.80}: expected an application in "
            f"keras.applications (`make backbones` lists them); nearest: {near}"
        )
    if image_size < (minimum := APPLICATIONS[name].minimum_size):
        fault = f"backbone.image_size = {image_size}: expected {minimum} or more for {name}"
        raise PipelineError(f"params.yaml: {fault}")


if __name__ == "__main__":
    print("name, minimum and native image side in pixels, preprocessing of images in [0, 255]")
    for each in APPLICATIONS.values():
        sizes = f"{each.minimum_size:>4}{each.native_size:>5}"
        print(f"{each.name:<20}{sizes}  {each.preprocessing}")
