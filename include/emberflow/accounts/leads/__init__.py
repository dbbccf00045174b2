"""Leads in the database: files that bring them in, what undoes a file, and what erases a person."""
