"""Cold outreach: leads, templates, sequences, rotation, compliance. Pure functions; none are built yet."""
