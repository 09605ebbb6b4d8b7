"""From a model to an artifact: trace, convert, lower, write."""
