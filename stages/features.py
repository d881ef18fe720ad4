"""Stage 4: freeze the prefix and compute its output once for each view of the training images."""

import json
import os
from typing import TYPE_CHECKING

from stages import cluster, paths
from stages.data.activations import Prefix, Store
from stages.data.dataset import DataSet
from stages.data.views import View
from stages.files import digest
from stages.nets.backbone import Backbone
from stages.params import dependencies, fingerprint, of_stage
from stages.runtime import description, set_up
from stages.training import cpu

if TYPE_CHECKING:
    from stages.params import Params

# Dependencies that select pixels, which are in each row's key.
PIXELS = ("data/processed/", "stages/data/dataset.py", "stages/data/views.py")


def main(params: "Params") -> None:
    """Write data/features, train_view0.npy, train_view1.npy, ..., dev.npy, and their data/keys."""
    settings = params.features
    set_up(settings.seed)
    cpu.set_up()
    data = DataSet()
    backbone = Backbone(params.backbone, data.image_shape, paths.WEIGHTS)
    print(backbone, flush=True)
    prefix = Prefix(backbone.frozen_prefix(), settings.batch_size)
    train, dev = data.images("train"), data.images("dev")
    run = fingerprint("features", params, {})
    folders = paths.FEATURES, paths.KEYS, paths.UNFINISHED_FEATURES
    store = Store(*folders, run, basis(params))
    if store.known and not prefix.is_independent(train[: settings.batch_size]):
        print("activations depend on the rest of a batch: all rows are computed, none copied")
        store.known = {}
    on_cluster = cluster.ADDRESS in os.environ
    forward = cluster.forward(params, data.image_shape, prefix) if on_cluster else prefix
    for number in range(settings.views):
        store.add(paths.train_view(number).stem, View(train, number, settings), prefix, forward)
    store.add(paths.dev_features().stem, dev, prefix, forward)
    store.finish()


def basis(params: "Params") -> str:
    """Name what an image's activations depend on beside its pixels."""
    files = [file for file in dependencies("features") if not str(file).startswith(PIXELS)]
    digests = {str(file): digest(file) for file in files}
    settings = of_stage("features", params)
    # Of this section, only `batch_size` matters to a row; the others select pixels.
    settings["features"] = params.features.batch_size
    bits = description() | {cluster.ANY_NODE: os.environ.get(cluster.ANY_NODE)}
    return json.dumps([settings, digests, bits])
