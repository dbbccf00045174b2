"""Where plans meet the database and the mail servers: slots from the plan to the recorded answer."""
