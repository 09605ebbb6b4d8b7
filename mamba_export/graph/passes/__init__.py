"""Graph passes, one a file; each is named for its effect."""
