"""Bots: which owned mailbox receives, and whether and when it replies. Pure functions on DataFrames."""
