"""Stage 4: freeze the prefix and compute its output once for each view of the training images."""

import json
import os
import shutil
from pathlib import Path

from stages import cluster, paths
from stages.data.activations import Prefix, Store, cached
from stages.data.dataset import DataSet
from stages.data.views import View
from stages.files import digest, replacing
from stages.nets.backbone import Backbone
from stages.params import Params, dependencies, of_stage
from stages.runtime import description, set_up
from stages.training import cpu

# Dependencies that affect the pixels only, which each row's key covers.
PIXELS = ("data/processed/", "stages/data/dataset.py", "stages/data/views.py")


def main(params: Params) -> None:
    """Write data/features, train_view0.npy, train_view1.npy, ..., dev.npy, and their data/keys."""
    settings = params.features
    data = DataSet()
    train, dev = data.images("train"), data.images("dev")
    prefix = frozen_prefix(params, data.image_shape, paths.WEIGHTS)
    on_cluster = os.environ.get(cluster.ADDRESS)
    forward = cluster.connect(params, data.image_shape, prefix) if on_cluster else prefix
    store = Store(basis(params), forward, cached("features"), paths.KEPT_FEATURES)
    if store.known and not prefix.is_independent(train[: settings.batch_size]):
        print("activations depend on the rest of a batch: all rows are computed, none copied")
        shutil.rmtree(paths.KEPT_FEATURES)
        store = Store(basis(params), forward, {}, paths.KEPT_FEATURES)
    with replacing(paths.KEYS) as keys, replacing(paths.FEATURES) as features:
        features.mkdir()
        keys.mkdir()
        for number in range(settings.views):
            store.write(paths.train_view(number, features), keys, View(train, number, settings))
        store.write(paths.dev_features(features), keys, dev)
    shutil.rmtree(paths.KEPT_FEATURES, ignore_errors=True)


def frozen_prefix(params: Params, image_shape: tuple[int, ...], weights: Path) -> Prefix:
    """Set TensorFlow up and build the prefix of the backbone for raw images of a shape."""
    settings = params.features
    set_up(settings.seed)
    cpu.set_up()
    backbone = Backbone(params.backbone, image_shape, weights)
    print(backbone, flush=True)
    return Prefix(backbone.frozen_prefix(), settings.batch_size)


def basis(params: Params) -> str:
    """Name what an image's activations depend on beside its pixels."""
    files = [file for file in dependencies("features") if not str(file).startswith(PIXELS)]
    digests = {str(file): digest(file) for file in files}
    settings = of_stage("features", params)
    # Of this section, only `batch_size` matters to a row; the others select pixels.
    settings["features"] = params.features.batch_size
    bits = description() | {cluster.ANY_NODE: cluster.any_node()}
    return json.dumps([settings, digests, bits])
