"""The pipeline: a module for each stage in dvc.yaml, and what every stage needs.

What TensorFlow and Keras read from the environment is set here, before anything imports them.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json sets
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what ends the process is still seen
# TensorFlow's own memory pool. Without it each large activation is mapped and given back by the C
# library, and on some processors more than half of the time goes into page faults.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
# Another Keras, and training cut short behind the back of params.yaml.
for _name in ("TF_USE_LEGACY_KERAS", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):
    os.environ.pop(_name, None)
