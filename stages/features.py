"""Stage 4: freeze the prefix and compute its output once for each view of the training images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.transfer import activations, backbones, parts
from stages.transfer.checkpoints import Checkpoints, fingerprint
from stages.transfer.dataset import mapped
from stages.transfer.determinism import make_deterministic
from stages.transfer.files import link, replacing
from stages.transfer.paths import DATASET, FEATURES, WEIGHTS, dev_features, train_view
from stages.transfer.views import View

if TYPE_CHECKING:
    from stages.transfer.params import Params


def main(params: "Params") -> None:
    """Write data/features: train_view0.npy, train_view1.npy, ..., dev.npy.

    Each is computed among the checkpoints, so that an interruption costs one at the most.
    """
    make_deterministic(params.features.seed)
    name, image_size = params.backbone.name, params.backbone.image_size
    net = backbones.build(name, image_size, WEIGHTS)
    # The weights in it stay fixed: this pass is the only one it needs.
    frozen = parts.frozen_part(net, name, image_size, params.backbone.cut)
    print(f"cut: {parts.described(net, params.backbone.cut)}")

    x_train, x_dev = mapped(DATASET, "x_train"), mapped(DATASET, "x_dev")
    own = params.features
    images: dict[Path, Any] = {
        train_view(number): View(x_train, number, own.shift, own.seed)
        for number in range(own.views)
    }
    images[dev_features()] = x_dev
    done = Checkpoints("features", fingerprint("features", params))
    missing = {path: x for path, x in images.items() if not done.has(path.name)}
    if len(missing) < len(images):
        print(
            f"{done.folder}: {len(images) - len(missing)} of {len(images)} files were finished",
            flush=True,
        )
    each = activations.size(frozen)
    print(f"{each / 2**10:.1f} KiB an image at the cut", flush=True)
    activations.require_space(each * sum(map(len, missing.values())), done.folder)
    for path, x in missing.items():
        with done.writing(path.name) as partial:
            activations.compute(frozen, x, partial, own.batch_size, path.stem)
    with replacing(FEATURES) as folder:
        folder.mkdir()
        for path in images:
            link(done.folder / path.name, folder / path.name)
