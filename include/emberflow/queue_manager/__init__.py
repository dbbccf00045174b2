"""Where plans meet the database and the mail servers. DAGs and pages call this and nothing deeper."""
