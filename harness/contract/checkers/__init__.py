"""The checkers of the session-server contract: history in, verdict out, without effects."""
