"""A share of the due slots is claimed, held to the second, sent once, and recorded."""
