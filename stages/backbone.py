"""Stage 2: fetch the backbone's ImageNet weights, so that later stages work offline."""

import os
from pathlib import Path

from stages.data import sources
from stages.errors import PipelineError
from stages.files import digest
from stages.nets.applications import APPLICATIONS
from stages.nets.pretrained import official_weights, original, save_weights
from stages.params import Backbone, Params
from stages.paths import WEIGHTS
from stages.runtime import set_up


def main(params: Params) -> None:
    """Write data/backbone/backbone.weights.h5: the application's weights without its top.

    They are loaded into the application and saved again, so that a file that does not fit is found
    here, and later stages read one format only.
    """
    set_up(0)
    settings = params.backbone
    native_size = APPLICATIONS[settings.name].native_size  # the weights are the same at any size
    if settings.weights == "random":
        print(f"{settings.name}: random weights, for smoke tests only")
        save_weights(original(settings.name, native_size), WEIGHTS, source="random")
    elif settings.weights == "imagenet":
        weights = fetched(settings)
        try:
            load_and_save(weights, settings)
        finally:
            weights.unlink()
    else:
        given = sources.from_project(Path(os.path.expanduser(settings.weights)))
        if not given.is_file():
            raise PipelineError(
                f"backbone.weights = {settings.weights!r}: there is no such file; expected "
                "imagenet, random or the path of a weights file"
            )
        print(f"{settings.name}: {given}, sha256 {digest(given)}")
        load_and_save(given, settings)


def load_and_save(weights: Path, settings: Backbone) -> None:
    """Write the stage's output from a weights file in one of Keras's formats."""
    net = original(settings.name, APPLICATIONS[settings.name].native_size, weights)
    save_weights(net, WEIGHTS, source=digest(weights))


def fetched(settings: Backbone) -> Path:
    """Fetch the application's ImageNet weights; return the file, in the output's folder."""
    official = official_weights(settings.name)

    def accept(path: Path, found: str, place: str) -> str | None:
        if found in settings.sha256.values():
            return None
        if official.hash:
            algorithm = "md5" if len(official.hash) == 32 else "sha256"
            if digest(path, algorithm) == official.hash:
                return None
        elif place == official.url:
            print(f"{official.name}: Keras has no hash for it; sha256 {found} is not pinned")
            return None
        keras_hash = f", nor Keras's own {official.hash}" if official.hash else ""
        return (
            f"sha256 is {found}, none of backbone.sha256 in params.yaml{keras_hash}; if you trust "
            f"the file for {settings.name}, add its digest there"
        )

    names = [official.name]
    module = APPLICATIONS[settings.name].module
    if sum(application.module == module for application in APPLICATIONS.values()) == 1:
        names.append(f"{module}_notop.weights.h5")  # if no other application shares the module
    weights = WEIGHTS.with_name(official.name)
    place = sources.fetch(names, official.url, weights, accept)
    # Keras infers the format from the name, so the original name is restored.
    return weights.rename(weights.with_name(Path(place).name))
