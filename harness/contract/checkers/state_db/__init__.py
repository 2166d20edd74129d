"""state_db."""
