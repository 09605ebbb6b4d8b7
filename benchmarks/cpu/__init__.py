"""The rows of the CPU suite: a module a kind of case."""
