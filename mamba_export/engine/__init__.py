"""From an artifact to a TensorRT or TensorRT-RTX engine, and what its directory says of it."""
