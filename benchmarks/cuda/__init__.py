"""The rows of the CUDA suite, and `make gpu`."""
