"""The pipeline: a module for each stage in dvc.yaml, and what every stage needs.

What TensorFlow and Keras read from the environment is set here, before anything imports them.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json sets
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # fatal errors are still shown
# TensorFlow's own memory allocator. Without it malloc maps and unmaps memory for each large
# activation, and on some processors more than half of the time goes into page faults.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
# These would select Keras 2 or limit training, overriding params.yaml.
for _name in ("TF_USE_LEGACY_KERAS", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):
    os.environ.pop(_name, None)
