"""What if: one change compared with its base, what each number is worth, and what binds."""
