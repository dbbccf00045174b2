"""Sending and receiving mail: messages, SMTP, IMAP, TLS, the loopback guard and the mail sandbox."""
