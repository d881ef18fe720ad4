"""`make verify`: the pipeline twice from nothing, every output compared with what is committed."""
