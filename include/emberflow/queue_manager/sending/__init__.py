"""Sending: a shard's due slots are claimed, held to their second, sent once, and recorded."""
