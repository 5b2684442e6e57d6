"""Training: a stage says what learns from what (`stages`), the loop does the steps, `builders` brings them together."""
