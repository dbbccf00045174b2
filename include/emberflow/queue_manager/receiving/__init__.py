"""Receiving: mailboxes are read, for what arrived, what is to be answered, and what became of mail in doubt."""
