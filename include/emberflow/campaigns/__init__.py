"""Cold outreach: texts, sequences, what is wrong with them. Pure functions; nothing is planned or sent yet."""
