"""What every process is built from; it knows nothing of donations."""
