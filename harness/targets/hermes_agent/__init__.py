"""hermes_agent."""
