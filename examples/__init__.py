"""Programs that show the project at work: `python -m examples.demo`."""
