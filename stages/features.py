"""Stage 4: freeze the prefix and compute its output once for each view of the training images."""

from typing import TYPE_CHECKING

from stages.data import activations
from stages.data.dataset import DataSet
from stages.data.views import View
from stages.files import replacing
from stages.nets.backbone import Backbone
from stages.paths import FEATURES, WEIGHTS, dev_features, train_view
from stages.runtime import set_up
from stages.training import cpu

if TYPE_CHECKING:
    from stages.params import Params


def main(params: "Params") -> None:
    """Write data/features: train_view0.npy, train_view1.npy, ..., dev.npy."""
    settings = params.features
    set_up(settings.seed)
    cpu.set_up()
    data = DataSet()
    backbone = Backbone(params.backbone, data.image_shape, WEIGHTS)
    print(backbone, flush=True)
    prefix = backbone.frozen_prefix()
    with replacing(FEATURES) as folder:
        folder.mkdir()
        for number in range(settings.views):
            view = View(data.images("train"), number, settings)
            activations.compute(prefix, view, train_view(number, folder), settings.batch_size)
        activations.compute(prefix, data.images("dev"), dev_features(folder), settings.batch_size)
