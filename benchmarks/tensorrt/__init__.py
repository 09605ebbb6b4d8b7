"""`make gpu-trt`."""
