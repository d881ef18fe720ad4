"""Stage 4: freeze the prefix and compute its output once for each view of the training images."""

from typing import TYPE_CHECKING

from stages.transfer import activations, backbones, parts
from stages.transfer.dataset import mapped
from stages.transfer.determinism import make_deterministic
from stages.transfer.files import replacing
from stages.transfer.paths import DATASET, FEATURES, WEIGHTS, dev_features, train_view
from stages.transfer.views import View

if TYPE_CHECKING:
    from stages.transfer.params import Params


def main(params: "Params") -> None:
    """Write data/features: train_view0.npy, train_view1.npy, ..., dev.npy."""
    make_deterministic(params.features.seed)
    name, image_size = params.backbone.name, params.backbone.image_size
    net = backbones.build(name, image_size, WEIGHTS)
    # The weights in it stay fixed: this pass is the only one it needs.
    frozen = parts.frozen_part(net, name, image_size, params.backbone.cut)

    x_train, x_dev = mapped(DATASET, "x_train"), mapped(DATASET, "x_dev")
    batch_size = params.features.batch_size
    with replacing(FEATURES) as folder:
        folder.mkdir()
        for number in range(params.features.views):
            images = View(x_train, number, params.features.shift, params.features.seed)
            path = train_view(number, folder)
            activations.compute(frozen, images, path, batch_size, f"view {number}")
        activations.compute(frozen, x_dev, dev_features(folder), batch_size, "dev")
