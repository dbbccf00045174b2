"""Read models for the command line and the pages; the reputation marts and when they are built."""
