"""Stage 2: fetch the backbone's ImageNet weights, so that nothing after needs a network."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stages.transfer import backbones, hdf5, places, weights_file
from stages.transfer.applications import APPLICATIONS
from stages.transfer.determinism import make_deterministic
from stages.transfer.errors import PipelineError
from stages.transfer.files import digest
from stages.transfer.paths import WEIGHTS

if TYPE_CHECKING:
    from stages.transfer.params import Params


def main(params: "Params") -> None:
    """Write data/backbone/backbone.weights.h5: the application's weights without its top.

    They are loaded into the application and saved again, so that a file that does not fit is found
    here, and what comes after need not know the two formats that such files come in.
    """
    make_deterministic(0)
    name, image_size = params.backbone.name, params.backbone.image_size
    if params.backbone.weights == "random":
        hdf5.save_weights(backbones.original(name, image_size), WEIGHTS)
        print(f"{name}: random weights, good for nothing but trying the pipeline")
        return

    if params.backbone.weights != "imagenet":
        given = places.from_project(Path(os.path.expanduser(params.backbone.weights)))
        if not given.is_file():
            what = "is no file" if given.exists() else "there is no such file"
            raise PipelineError(
                f"backbone.weights = {params.backbone.weights!r}: {what}; expected imagenet, "
                "random or the path of a weights file"
            )
        weights_file.check(given)
        hdf5.save_weights(backbones.original(name, image_size, given), WEIGHTS)
        print(f"{name}: {given}, sha256 {digest(given)}")
        return

    accepted = params.backbone.sha256
    official = backbones.official_weights(name, image_size)

    def accept(path: Path, found: str, place: str) -> str | None:
        if found in accepted:
            return None
        if official.hash:
            algorithm = "md5" if len(official.hash) == 32 else "sha256"
            if digest(path, algorithm) == official.hash:
                return None
            return f"{algorithm} is not Keras's own {official.hash}, sha256 {found} is not accepted"
        if place == official.url:
            print(f"{official.name}: Keras has no hash for it; sha256 {found} is not pinned")
            return None
        return f"sha256 is {found}, expected one of backbone.sha256 in params.yaml"

    names = [official.name]
    module = APPLICATIONS[name].module
    if sum(application.module == module for application in APPLICATIONS.values()) == 1:
        names.append(f"{module}_notop.weights.h5")  # where it can mean only this application
    with tempfile.TemporaryDirectory() as folder:
        fetched = Path(folder, official.name)
        place = places.fetch([*places.mirror_places(names), official.url], fetched, accept)
        # Keras tells the format by the name that the file had where it came from.
        fetched = fetched.rename(fetched.with_name(Path(place).name))
        weights_file.check(fetched)
        hdf5.save_weights(backbones.original(name, image_size, fetched), WEIGHTS)
