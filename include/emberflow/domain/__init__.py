"""What every part speaks of, as types: slots, kinds of mail, attempts, events, tiers, the audit chain."""
