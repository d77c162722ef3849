"""Videos packed into ArrayRecord shards, which TFDS writes and reads without TensorFlow."""
