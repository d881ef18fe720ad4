"""The pretrained network: an application from `keras.applications`, cut in two."""
