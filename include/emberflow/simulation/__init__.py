"""The planner's pure functions on a virtual clock and a virtual provider. Not built yet."""
