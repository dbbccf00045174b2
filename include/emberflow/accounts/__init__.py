"""Mailboxes of the operator: imports, checks, states, egress addresses, suppressions, and the switches over them."""
