"""May this mail leave, and what does a server's answer mean? Rules without database or network."""
