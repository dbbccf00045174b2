"""The plan of an hour: read, computed, written, cancelled."""
