"""The one door for people: whatever a person does is one function here, with an actor, a reason and an audit row."""
