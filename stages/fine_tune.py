"""Stage 6: unfreeze the suffix, train it with the head, save the whole as one model."""

from stages import classifier, paths
from stages.data.dataset import DataSet
from stages.files import mapped
from stages.nets.backbone import Backbone
from stages.nets.graph import pooled
from stages.params import Params, fingerprint
from stages.runtime import description, set_up
from stages.training import cpu, fit, layers, recipe
from stages.training.batches import Batches
from stages.training.checkpoint import Checkpoint
from stages.training.head import load_head, new_head, with_head


def main(params: Params) -> None:
    """Write the model (raw images in, probabilities out, compiled) and the learning curve."""
    settings = params.fine_tune
    set_up(settings.seed, at_once=2)  # two half batches
    in_bfloat16 = cpu.set_up()
    data = DataSet()
    classes, size = len(data.class_names), settings.batch_size
    views = [mapped(paths.train_view(number)) for number in range(params.features.views)]
    train = Batches(
        views, data.labels("train"), classes, size, settings.seed, settings.cutmix_fraction
    )
    dev = Batches([mapped(paths.dev_features())], data.labels("dev"), classes, size)

    backbone = Backbone(params.backbone, data.image_shape, paths.WEIGHTS)
    suffix = layers.for_training(backbone.suffix, settings.batch_norm, settings.batch_norm_momentum)
    head = new_head(classes)
    model = with_head(pooled(suffix), head)
    load_head(paths.HEAD, head)
    steps = settings.epochs * len(train)
    model.compile(
        recipe.optimizer(settings.learning_rate, steps, settings.weight_decay, settings.optimizer),
        recipe.loss(settings.label_smoothing),
        metrics=["accuracy"],
    )
    checkpoint = Checkpoint(paths.CHECKPOINT, fingerprint("fine_tune", params, description()))
    dev_accuracy = fit.fit(
        model,
        train,
        dev,
        epochs=settings.epochs,
        curve=paths.FINE_TUNE_CURVE,
        key="fine_tune",
        checkpoint=checkpoint,
    )
    if in_bfloat16:
        cpu.round_kernels(suffix)
    layers.copy_weights(suffix, backbone.suffix)
    flip = settings.test_time_flip and params.features.flip
    model = classifier.classifier(backbone.on_raw_images(), head, flip)
    classifier.save(model, paths.model(params.data.name), data.class_names, data.aspect)
    checkpoint.remove()
    print(f"fine-tuned: dev accuracy {dev_accuracy:.4f}, without test-time augmentation")
