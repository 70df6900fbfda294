"""Training: batches -> micro-batches -> one optimizer step, by a pipeline schedule."""
