"""What the stages are made of, named as the field names it."""
