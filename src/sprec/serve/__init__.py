"""A run at work: lists for all users at once, and a service."""
