"""Generic checkers of histories: ordering, serializability, conformance, growth and idling."""
