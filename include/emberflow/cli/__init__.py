"""The operator's command line, and the local stack that it starts, shows and stops."""
