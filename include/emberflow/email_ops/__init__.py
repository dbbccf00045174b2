"""Sending and receiving mail: messages, SMTP, IMAP, TLS and the loopback guard."""
