"""The pretrained net, frozen: an application from `keras.applications`, cut in two."""
