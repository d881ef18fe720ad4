"""The recipe: what the optimizer, its rate and the loss are. `fit` runs it.

Adam with decoupled weight decay (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), a
linear warm-up and a cosine to zero (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983),
smoothed labels (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).
"""

import keras


def learning_rate(peak: float, steps: int, warmup: float) -> keras.optimizers.schedules.CosineDecay:
    """Return a schedule: from 0 up to the peak in a straight line, then down to 0 by a cosine.

    Args:
        peak: highest rate.
        steps: number of steps of the whole run.
        warmup: share of the steps that rise, in [0, 1).
    """
    rising = round(steps * warmup)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rising else peak,
        decay_steps=max(1, steps - rising),
        warmup_target=peak if rising else None,
        warmup_steps=rising,
    )


def optimizer(
    peak: float, steps: int, warmup: float = 0.0, weight_decay: float = 0.0
) -> keras.optimizers.Optimizer:
    """Return AdamW on that schedule; biases and normalisation are not decayed."""
    adamw = keras.optimizers.AdamW(learning_rate(peak, steps, warmup), weight_decay=weight_decay)
    adamw.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return adamw


def loss(label_smoothing: float = 0.0) -> keras.losses.Loss:
    """Return cross-entropy of logits against one-hot labels."""
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
