"""What a user writes: schemas, units, and how files become validated specifications."""
