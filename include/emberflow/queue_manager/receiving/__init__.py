"""Mailboxes are read: what arrived, what is answered, and what became of mail in doubt."""
