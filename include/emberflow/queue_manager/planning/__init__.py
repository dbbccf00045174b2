"""Planning: an hour is read, computed and written."""
