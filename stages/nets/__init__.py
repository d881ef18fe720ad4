"""The net: an application from `keras.applications`, cut in two, joined with a head, saved."""
