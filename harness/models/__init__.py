"""Sequential specifications of common objects: a register and a key-value store."""
