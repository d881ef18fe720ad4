"""Stage 6: unfreeze the suffix, train it with the head, save the whole as cifar10.h5."""

from typing import TYPE_CHECKING

from stages.transfer import activations, backbones, batch_norm, classifier, parts, recipe, training
from stages.transfer.batches import Batches
from stages.transfer.checkpoints import Checkpoints, fingerprint
from stages.transfer.dataset import arrays
from stages.transfer.determinism import make_deterministic
from stages.transfer.paths import (
    DATASET,
    FINE_TUNE_CURVE,
    HEAD,
    MODEL,
    WEIGHTS,
    dev_features,
    train_view,
)

if TYPE_CHECKING:
    from stages.transfer.params import Params

RE_ESTIMATION = 10_000  # images, so that the averages are over many batches


def main(params: "Params") -> None:
    """Write cifar10.h5 (raw images in, probabilities out, compiled) and the learning curve."""
    own = params.fine_tune
    make_deterministic(own.seed)
    name, image_size = params.backbone.name, params.backbone.image_size
    net = backbones.build(name, image_size, WEIGHTS)
    suffix = parts.trained_part(net, name, image_size, params.backbone.cut)

    y_train, y_dev, names = arrays(DATASET, "y_train", "y_dev", "class_names")
    classes = len(names)
    trained = batch_norm.for_training(suffix, own.batch_norm, own.batch_norm_momentum)
    model = classifier.trainable_part(trained, classes, own.dropout)
    head = model.get_layer("logits")
    classifier.load_head(HEAD, head)

    views = [activations.load(train_view(number)) for number in range(params.features.views)]
    train = Batches(views, y_train, classes, own.batch_size, own.seed, own.cutmix_share)
    dev = Batches([activations.load(dev_features())], y_dev, classes, own.batch_size)
    model.compile(
        recipe.optimizer(own.learning_rate, own.epochs * len(train), own.warmup, own.weight_decay),
        recipe.loss(own.label_smoothing),
        metrics=["accuracy"],
        jit_compile=False,  # XLA is several times slower than oneDNN on these nets on a CPU
    )
    checkpoints = Checkpoints("fine_tune", fingerprint("fine_tune", params))
    result = training.fit(
        model, train, dev=dev, epochs=own.epochs, key="fine_tune", checkpoints=checkpoints
    )
    if own.batch_norm == "re-estimated":
        plain = Batches(views, y_train, classes, own.batch_size, own.seed)  # no mixed images
        sample = range(min(len(plain), RE_ESTIMATION // own.batch_size + 1))
        batch_norm.re_estimate(trained, (plain[i][0] for i in sample))
    batch_norm.copy_weights(trained, suffix)
    training.write_curve(result.curve, FINE_TUNE_CURVE)
    joined = classifier.join(net, name, image_size, head, own.test_time_flip)
    classifier.save(joined, MODEL)
    print(f"fine-tuned: accuracy on dev {result.dev_accuracy:.4f}, without the mirror image")
