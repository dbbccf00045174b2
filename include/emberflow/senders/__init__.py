"""Senders: how much a mailbox may send today and when. Pure functions: DataFrames in, DataFrames out."""
