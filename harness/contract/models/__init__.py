"""Sequential specifications of the components of a session server."""
