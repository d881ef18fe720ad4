"""Which photos are for train, dev and test: duplicates left out, the rest divided by hashes."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

from stages.data.folders import Photo
from stages.errors import PipelineError
from stages.params import Preprocess

# Of two equal images, the one in the part that comes first here is kept.
PRECEDENCE = ("test", "dev", "train", "")


def duplicates(photos: Iterable[Photo]) -> dict[str, str]:
    """Return photos to leave out, because others have the same pixels: reasons by name.

    Of equal images, all in test are kept, else one in dev, else one; none if the classes differ.
    """
    equal = defaultdict(list)
    for photo in sorted(photos, key=lambda each: (PRECEDENCE.index(each.part), each.content)):
        equal[photo.pixels].append(photo)
    left_out: dict[str, str] = {}
    for first, *others in equal.values():
        if other := next((photo for photo in others if photo.label != first.label), None):
            reason = f"the same pixels in different classes: {first.name}, {other.name}"
            left_out |= dict.fromkeys((photo.name for photo in (first, *others)), reason)
        else:
            names = (photo.name for photo in others if photo.part != "test")
            left_out |= dict.fromkeys(names, f"the same pixels as {first.name}")
    return left_out


def divide(photos: Sequence[Photo], settings: Preprocess) -> dict[str, str]:
    """Return the part of each photo, by name.

    A part that no folder is for is drawn from the training images: those of each class whose
    hashes, of seed and file, are the lowest. The limits do not depend on the other photos, so
    those that are added move no image from test to another part, unless it is the only one of its
    class there or one of them has the same pixels in another file.

    Args:
        photos: without duplicates.
        settings: the seed, and which fraction of each class goes to test and dev, approximately.

    Raises:
        PipelineError: there are fewer than two classes, or a class has too few images in a part.
    """
    part_of = {photo.name: photo.part or "train" for photo in photos}
    given = {"train", *part_of.values()}
    drawn = {"test": settings.test_fraction, "dev": settings.dev_fraction}
    drawn = {part: fraction for part, fraction in drawn.items() if part not in given}
    members = defaultdict(list)
    for photo in photos:
        members[photo.label, part_of[photo.name]].append(photo)
    classes = sorted({photo.label for photo in photos})
    if len(classes) < 2:
        raise PipelineError(f"class folders with images: {classes}; expected at least 2")
    for label, part in itertools.product(classes, sorted(given)):
        expected = 1 + len(drawn) * (part == "train")
        if (count := len(members[label, part])) < expected:
            where = f" in {part}" if len(given) > 1 else ""
            raise PipelineError(
                f"class {label!r}: has {count} different readable images{where}, expected at least "
                f"{expected}; add some, or remove the class"
            )
    for label in classes:
        ranked = sorted(
            (_uniform(settings.seed, p.content), p.name) for p in members[label, "train"]
        )
        start, limit = 0, 0.0
        for reserved, part in zip(range(len(drawn), 0, -1), drawn, strict=True):
            limit += drawn[part]
            below = sum(uniform < limit for uniform, _ in ranked)
            # At least one for this part, for those that follow and for training.
            end = min(max(below, start + 1), len(ranked) - reserved)
            part_of |= {name: part for _, name in ranked[start:end]}
            start = end
    return part_of


def _uniform(seed: int, digest: bytes) -> float:
    """Return a number in [0, 1) that depends on seed and digest alone."""
    hashed = hashlib.sha256(f"{seed} ".encode() + digest).digest()
    return int.from_bytes(hashed[:6]) / 2**48
