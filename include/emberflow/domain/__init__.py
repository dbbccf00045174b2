"""The words that every part shares: what a slot is."""
