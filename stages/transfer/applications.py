"""The applications in `keras.applications`: one table, read by code, schema and tests.

No TensorFlow here: params.yaml is checked against this table before anything slow is imported.
Sizes and preprocessing are those of the sources of `keras.applications`, Keras 3.15. `make
backbones` prints it.
"""

from typing import Literal, NamedTuple

Preprocessing = Literal["inside", "tf", "torch", "caffe"]


class Application(NamedTuple):
    """One constructor in `keras.applications`.

    Attributes:
        name: the constructor's name.
        module: its module under `keras.applications`, which also names the files of its weights.
        family: the nets that differ from it in size only.
        minimum_size: the smallest image side without its top, in pixels.
        native_size: the image side that its ImageNet top takes, in pixels.
        preprocessing: what its ImageNet weights expect of an RGB image in [0, 255]. "inside": the
            net does it; "tf": scaled to [-1, 1]; "torch": scaled to [0, 1], then standardised by
            ImageNet's mean and deviation; "caffe": BGR, ImageNet's mean subtracted.
        rewritten: which of its parts `builtin_layers` replaces by built-in layers, and by which.
        refused: why this pipeline does not serve it, or None if it does.
    """

    name: str
    module: str
    family: str
    minimum_size: int
    native_size: int
    preprocessing: Preprocessing
    rewritten: tuple[str, ...] = ()
    refused: str | None = None


CONVNEXT = ("LayerScale, grouped Conv2D: DepthwiseConv2D", "+: Add")
EFFICIENTNET = ("Normalization's statistics: settings",)
RESIDUALS = ("CustomScaleLayer: Rescaling, Add",)
HARD_SIGMOID = ("+ 3, * 1/6: Rescaling",)

APPLICATIONS: dict[str, Application] = {
    application.name: application
    for application in (
        Application("ConvNeXtTiny", "convnext", "ConvNeXt", 32, 224, "inside", CONVNEXT),
        Application("ConvNeXtSmall", "convnext", "ConvNeXt", 32, 224, "inside", CONVNEXT),
        Application("ConvNeXtBase", "convnext", "ConvNeXt", 32, 224, "inside", CONVNEXT),
        Application("ConvNeXtLarge", "convnext", "ConvNeXt", 32, 224, "inside", CONVNEXT),
        Application("ConvNeXtXLarge", "convnext", "ConvNeXt", 32, 224, "inside", CONVNEXT),
        Application("DenseNet121", "densenet", "DenseNet", 32, 224, "torch"),
        Application("DenseNet169", "densenet", "DenseNet", 32, 224, "torch"),
        Application("DenseNet201", "densenet", "DenseNet", 32, 224, "torch"),
        Application(
            "EfficientNetB0", "efficientnet", "EfficientNet", 32, 224, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB1", "efficientnet", "EfficientNet", 32, 240, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB2", "efficientnet", "EfficientNet", 32, 260, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB3", "efficientnet", "EfficientNet", 32, 300, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB4", "efficientnet", "EfficientNet", 32, 380, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB5", "efficientnet", "EfficientNet", 32, 456, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB6", "efficientnet", "EfficientNet", 32, 528, "inside", EFFICIENTNET
        ),
        Application(
            "EfficientNetB7", "efficientnet", "EfficientNet", 32, 600, "inside", EFFICIENTNET
        ),
        Application("EfficientNetV2B0", "efficientnet_v2", "EfficientNetV2", 32, 224, "inside"),
        Application("EfficientNetV2B1", "efficientnet_v2", "EfficientNetV2", 32, 240, "inside"),
        Application("EfficientNetV2B2", "efficientnet_v2", "EfficientNetV2", 32, 260, "inside"),
        Application("EfficientNetV2B3", "efficientnet_v2", "EfficientNetV2", 32, 300, "inside"),
        Application("EfficientNetV2S", "efficientnet_v2", "EfficientNetV2", 32, 384, "inside"),
        Application("EfficientNetV2M", "efficientnet_v2", "EfficientNetV2", 32, 480, "inside"),
        Application("EfficientNetV2L", "efficientnet_v2", "EfficientNetV2", 32, 480, "inside"),
        Application(
            "InceptionResNetV2", "inception_resnet_v2", "Inception-ResNet", 75, 299, "tf", RESIDUALS
        ),
        Application("InceptionV3", "inception_v3", "Inception", 75, 299, "tf"),
        Application("MobileNet", "mobilenet", "MobileNet", 32, 224, "tf"),
        Application("MobileNetV2", "mobilenet_v2", "MobileNetV2", 32, 224, "tf"),
        Application(
            "MobileNetV3Small", "mobilenet_v3", "MobileNetV3", 32, 224, "inside", HARD_SIGMOID
        ),
        Application(
            "MobileNetV3Large", "mobilenet_v3", "MobileNetV3", 32, 224, "inside", HARD_SIGMOID
        ),
        Application("NASNetMobile", "nasnet", "NASNet", 32, 224, "tf"),
        Application("NASNetLarge", "nasnet", "NASNet", 32, 331, "tf"),
        Application("ResNet50", "resnet", "ResNet", 32, 224, "caffe"),
        Application("ResNet101", "resnet", "ResNet", 32, 224, "caffe"),
        Application("ResNet152", "resnet", "ResNet", 32, 224, "caffe"),
        Application("ResNet50V2", "resnet_v2", "ResNetV2", 32, 224, "tf"),
        Application("ResNet101V2", "resnet_v2", "ResNetV2", 32, 224, "tf"),
        Application("ResNet152V2", "resnet_v2", "ResNetV2", 32, 224, "tf"),
        Application("VGG16", "vgg16", "VGG", 32, 224, "caffe"),
        Application("VGG19", "vgg19", "VGG", 32, 224, "caffe"),
        Application("Xception", "xception", "Xception", 71, 299, "tf"),
    )
}


def lines() -> list[str]:
    """Return the table as aligned text, a heading first."""
    rows = [("name", "family", "minimum", "native", "preprocessing", "rewritten, or why refused")]
    for a in APPLICATIONS.values():
        remark = f"refused: {a.refused}" if a.refused else "; ".join(a.rewritten)
        sizes = str(a.minimum_size), str(a.native_size)
        rows.append((a.name, a.family, *sizes, a.preprocessing, remark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in (2, 3) else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


LEGEND = """
minimum, native: image sides in pixels, the smallest and that of ImageNet's weights.
preprocessing: of images in [0, 255], by the pipeline (tf, torch, caffe: as Keras calls them) or by
the net itself (inside). rewritten: parts replaced by built-in layers that compute the same."""


def main(_: list[str]) -> None:
    """Print the table; `make backbones` does."""
    print(*lines(), LEGEND, sep="\n")
