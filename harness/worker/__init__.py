"""Code that runs inside another process; it imports the standard library only."""
