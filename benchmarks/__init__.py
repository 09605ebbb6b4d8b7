"""Measures this project, against fixed limits and against other people's programs."""
