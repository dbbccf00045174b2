"""The policy document: every number that a rule uses, its versions, and its text for people."""
