"""serializability."""
